"""The chat template as llama.cpp needs it.

llama.cpp joins the parts of a message to one text before the template sees them, with a marker of
its own where a picture was, and nothing between. Training puts a line break there. The template in
the GGUF file puts it back, so that every client's message becomes the text the model learned from.
"""

from medllava.errors import SetupError

_AS_IS = "{%- set baked.text = message['content'] -%}"
_WITH_BREAKS = (
    "{%- set baked.text = '' -%}"
    "{%- set baked.last = '' -%}"
    "{%- for piece in message['content'].split('<__media') -%}"
    "{%- set words = piece -%}"
    "{%- if not loop.first -%}"
    "{%- set mark = piece.split('__>')[0] ~ '__>' -%}"
    "{%- if baked.text -%}{%- set baked.text = baked.text ~ '\\n' -%}{%- endif -%}"
    "{%- set baked.text = baked.text ~ '<__media' ~ mark -%}"
    "{%- set baked.last = 'image' -%}"
    "{%- set words = piece[(mark | length):] -%}"
    "{%- endif -%}"
    "{%- set words = words.strip('\\n') -%}"
    "{%- if words -%}"
    "{%- if baked.last == 'image' -%}{%- set baked.text = baked.text ~ '\\n' -%}{%- endif -%}"
    "{%- set baked.text = baked.text ~ words -%}"
    "{%- set baked.last = 'text' -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""The marker is `<__media__>`, or with random letters before its end, new for every server."""


def llama_cpp_template(template: str) -> str:
    """Return a saved chat template with the line breaks around pictures put back.

    Raises:
        SetupError: the template is not one that this package saved.
    """
    if _AS_IS not in template:
        raise SetupError(
            "the saved chat template is not one of medllava's, so the text around pictures cannot "
            "be kept in GGUF. Import the model with `medllava train --init` first."
        )
    return template.replace(_AS_IS, _WITH_BREAKS, 1)
