"""The page itself, in Gradio: on loopback, without telemetry, without a request to anybody else's server."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, reason, shown
from leukaemia_zoo.desk.fields import examine
from leukaemia_zoo.desk.judging import judge
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import DataError, DeskMissingError, LeukaemiaZooError
from leukaemia_zoo.zoo.registry import model_info
from leukaemia_zoo.zoo.sources import is_elsewhere

LOOPBACK = "127.0.0.1"

_KEPT_S = 3600
"""Uploaded images are removed after an hour, and when the page ends."""

_BANNER = (
    '<p role="note" style="position:fixed;left:0;right:0;bottom:0;z-index:100;margin:0;padding:.6em 1em;'
    'text-align:center;font-weight:600;color:#fff;background:#4a148c">{}</p>'
)
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Of the machine: Gradio's own would be fetched from a server of fonts."""


_BUTTONS = ["download", "fullscreen"]
"""Of a picture: by themselves there is a third, which uploads it to Hugging Face."""

_MAPS = [("None, a verdict does not wait", "none"), ("Grad-CAM", "grad_cam"), ("Attention map", "attention")]
"""What may lie over the cells: words, and the method of `explain`."""


def _gradio() -> Any:
    # Before the import, which already looks at them.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise DeskMissingError(
            f"The page needs Gradio ({reason(error)}): run `pip install 'leukaemia-zoo[app]'`."
        ) from error
    return gradio


def build_page(models: Sequence[str], *, miss_rate: float | None = None, where: str = "On your own machine") -> Any:
    """A page that judges cells, single ones and those of a field.

    Args:
        models: Weights as `load_model` takes them, to choose from; the first is chosen.
        miss_rate: As `predict` takes it.
        where: Where images go, as the beginning of a sentence.

    Returns:
        The ``gradio.Blocks``, with the endpoints ``/judge`` and ``/examine``.

    Raises:
        DeskMissingError: If Gradio is not installed.
        LeukaemiaZooError: As `load_model`, of the first model.
    """
    gr = _gradio()
    models = list(models)
    load = functools.lru_cache(maxsize=2)(Network.load)
    load(models[0])

    def network(model: str) -> Network:
        if model not in models:
            raise DataError("That model is not offered here.")
        return load(model)

    @contextlib.contextmanager
    def folder() -> Iterator[Path]:
        """For what is written; mistakes are told on the page."""
        try:
            # Gradio removes its own temporary files; these lie among them.
            yield Path(tempfile.mkdtemp(dir=_temporary()))
        except LeukaemiaZooError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def judged(files: list[str] | None, model: str, method: str, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        if not files:
            return [], _value([], []), _value([], []), None, ""
        with folder() as place:
            found = judge(
                network(model),
                files,
                place / "predictions.csv",
                model=model,
                method=None if method == "none" else method,
                miss_rate=miss_rate,
                progress=lambda done, total: progress((done, total), unit="cells"),
            )
        return found.pictures, _value(*found.cells), _value(*found.subjects), str(found.csv), _words(found.told)

    def examined(file: str | None, model: str, scale: str | None) -> tuple[Any, ...]:
        if not file:
            return None, _value([], []), None, ""
        with folder() as place:
            found = examine(network(model), file, place, micrometres_per_pixel=_number(scale), miss_rate=miss_rate)
        return str(found.picture), _value(*found.cells), str(found.csv), _words(found.told)

    with gr.Blocks(title="leukaemia-zoo", analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S)) as blocks:
        gr.HTML(_BANNER.format(NOT_A_DIAGNOSIS))
        gr.Markdown(
            "# leukaemia-zoo\n"
            "Drop images of single white blood cells, cut out and on black, or a whole field of a smear. "
            f"{where}: a network tells leukaemic (`all`) from normal (`hem`) cells, or the classes of your own model."
        )
        model = gr.Dropdown([(_title(name), name) for name in models], value=models[0], label="Model")
        with gr.Tab("Single cells"):
            with gr.Row():
                files = gr.File(label="Cells", file_count="multiple", type="filepath", scale=2)
                with gr.Column():
                    method = gr.Dropdown(_MAPS, value="none", label="Map of where the network looks (takes Keras)")
                    button = gr.Button("Judge", variant="primary")
            told = gr.Markdown(label="Summary", elem_id="told")
            pictures = gr.Gallery(
                label="Cells and verdicts", columns=6, object_fit="contain", interactive=False, buttons=_BUTTONS
            )
            subjects = gr.Dataframe(label="Subjects", interactive=False, type="array")
            cells = gr.Dataframe(label="Cells", interactive=False, type="array")
            csv = gr.File(label="CSV of all cells", interactive=False)
            button.click(judged, [files, model, method], [pictures, cells, subjects, csv, told], api_name="judge")
        with gr.Tab("A field of a smear"):
            with gr.Row():
                file = gr.File(label="Field", type="filepath", scale=2)
                with gr.Column():
                    # Of text: Gradio's own field for numbers shows and sends 0 where nothing was written.
                    scale = gr.Textbox(
                        label="Micrometres per pixel",
                        info="Empty: estimated from the red cells, which is less exact.",
                        max_lines=1,
                    )
                    button = gr.Button("Find and judge the white cells", variant="primary")
            told = gr.Markdown(label="Summary", elem_id="told-of-field")
            picture = gr.Image(
                label="White cells and verdicts", type="filepath", format="png", interactive=False, buttons=_BUTTONS
            )
            cells = gr.Dataframe(label="White cells", interactive=False, type="array")
            csv = gr.File(label="CSV of the white cells", interactive=False)
            button.click(examined, [file, model, scale], [picture, cells, csv, told], api_name="examine")
        gr.HTML('<div style="height:4em"></div>')  # so that the last of it is not below the sentence
    return blocks


def serve(
    models: Sequence[str],
    *,
    host: str | None = LOOPBACK,
    port: int | None = None,
    miss_rate: float | None = None,
    browser: bool = False,
    **about: Any,
) -> Any:
    """Serve the page and come back at once.

    Args:
        models: As `build_page` takes them.
        host: Address to listen at. The default is reached from this machine only. None for what the variable
            GRADIO_SERVER_NAME says, as in a Space.
        port: Port; None for the first free one from 7860 on.
        miss_rate: As `predict` takes it.
        browser: Open it in a browser.
        **about: Further arguments of `build_page`.

    Returns:
        The ``gradio.Blocks``, with ``local_url``, ``block_thread()`` and ``close()``.

    Raises:
        DataError: If the port is taken.
    """
    gr = _gradio()
    blocks = build_page(models, miss_rate=miss_rate, **about)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            theme=gr.themes.Default(**_FONTS),
        )
    except OSError as error:
        raise DataError(
            f"The page cannot be served at {host}:{port or 7860}: the port is taken, or the address is none of this "
            "machine; name another (--port, --host)."
        ) from error
    return blocks


def _temporary() -> str:
    """Gradio's folder of temporary files, which `delete_cache` empties."""
    folder = os.environ.get("GRADIO_TEMP_DIR") or str(Path(tempfile.gettempdir()) / "gradio")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


def _number(written: str | None) -> float | None:
    """A number as somebody wrote it; None where there is nothing."""
    if not (text := (written or "").strip()):
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(
            f"Micrometres per pixel are {shown(text)}, which is no number: write one such as 0.1, or nothing."
        ) from error


def _words(told: list[str]) -> str:
    return "\n\n".join([*told, NOT_A_DIAGNOSIS])


def _value(headers: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    return {"headers": headers, "data": rows}


def _title(model: str) -> str:
    if is_elsewhere(model):
        return model
    weight = model_info(model).weight
    return weight.name if weight else model
