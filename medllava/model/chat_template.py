"""One chat template per model: the tokenizer's or the recipe's, with everything baked in.

A recipe's system prompt becomes part of the template, so that training, evaluation, chat and a bare
`pipeline("image-text-to-text")` send the same text. The baked template also accepts contents that
are lists of `{"type": "text" | "image"}` and turns them into the one string that most language
models' own templates expect.
"""

import json

from medllava.records import IMAGE_TOKEN

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\\n' ~ message['content'] ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""The plain form that most open models speak; for those that bring no template."""

_MARKER = "{#- medllava -#}"

_FLATTEN = """{{%- set baked = namespace(messages=[], text='', last='') -%}}
{{%- for message in messages -%}}
  {{%- if message['content'] is string -%}}
    {{%- set baked.messages = baked.messages + [message] -%}}
  {{%- else -%}}
    {{%- set baked.text = '' -%}}
    {{%- set baked.last = '' -%}}
    {{%- for part in message['content'] -%}}
      {{%- if baked.last and 'image' in (baked.last, part['type']) -%}}
        {{%- set baked.text = baked.text ~ '\\n' -%}}
      {{%- endif -%}}
      {{%- set baked.last = part['type'] -%}}
      {{%- set baked.text = baked.text ~ ({image} if part['type'] == 'image' else part['text']) -%}}
    {{%- endfor -%}}
    {{%- set baked.messages = baked.messages + [dict(message, content=baked.text)] -%}}
  {{%- endif -%}}
{{%- endfor -%}}
"""

_SYSTEM = """{{%- if not baked.messages or baked.messages[0]['role'] != 'system' -%}}
  {{%- set baked.messages = [{{'role': 'system', 'content': {system}}}] + baked.messages -%}}
{{%- endif -%}}
"""

_REBIND = "{%- set messages = baked.messages -%}\n"


def bake_chat_template(template: str, *, system_prompt: str = "") -> str:
    """Return `template` with the system prompt and the flattening of list contents put before it.

    Args:
        template: Jinja over `messages` with string contents.
        system_prompt: opens every conversation that does not bring its own; empty adds none.

    Returns:
        A template that is returned unchanged when it is baked again without a system prompt.
    """
    if template.startswith(_MARKER) and not system_prompt:
        return template
    head = _FLATTEN.format(image=json.dumps(IMAGE_TOKEN))
    if system_prompt:
        head += _SYSTEM.format(system=json.dumps(system_prompt, ensure_ascii=False))
    return _MARKER + head + _REBIND + template
