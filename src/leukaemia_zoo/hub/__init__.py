"""The Hugging Face Hub: the only wing that talks to it, and only through huggingface_hub.

HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies, time-outs, the cache and the progress bars are therefore those
that users of the Hub know.
"""
