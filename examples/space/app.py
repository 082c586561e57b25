"""A Space of Hugging Face that judges cells by the small weights of leukaemia-zoo: upload the files of this folder."""

from leukaemia_zoo.desk import serve

MODELS = ["cnn_attention", "mobilenet.pbc_cnmc", "cnn"]

if __name__ == "__main__":
    # A Space says itself where to listen. Elsewhere the page is reached from the own machine only.
    served = serve(
        MODELS,
        host=None,
        where="On a server, where no image of a patient belongs who has not agreed to it",
    )
    served.block_thread()
