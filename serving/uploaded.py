"""A page to which a recording is a file that was uploaded, never an address.

Decision: to Gradio a component's value may be `{"path": "https://…"}`, whichever component it is, and then Gradio
fetches that address itself, without a limit, before the page's own code is called. So such values are refused where all
of them come in.
"""

from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction

from serving.endpoints import words_of
from serving.uploads import paths


def has_address(given: Any) -> bool:
    """Whether the path of a file that was sent is an address."""
    return any("://" in path for path in paths(given))


class UploadedOnly(gr.Blocks):
    """Gradio's Blocks, which fetch nothing that somebody asks them to."""

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *others: Any, request: Any = None, **named: Any
    ) -> dict[str, Any]:
        """As Gradio's. Raises `gr.Error` with a sentence for whoever asks."""
        if has_address(inputs):
            raise gr.Error(words_of(request)["address"], print_exception=False)
        return await super().process_api(block_fn, inputs, *others, request=request, **named)
