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

VICUNA = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] ~ ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'USER: ' ~ message['content'] ~ ' ' }}"
    "{%- else -%}{{ 'ASSISTANT: ' ~ message['content'] ~ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
"""What LLaVA 1.5 was trained with."""

MISTRAL = (
    "{{- bos_token -}}"
    "{%- set state = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set state.system = message['content'] ~ '\n\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ '[INST] ' ~ state.system ~ message['content'] ~ ' [/INST]' }}{%- set state.system = '' -%}"
    "{%- else -%}{{ ' ' ~ message['content'] ~ ' ' ~ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)
"""What LLaVA-Med v1.5 was trained with."""

HUMAN_ASSISTANT = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] ~ '\n\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '### Human: ' ~ message['content'] ~ '\n' }}"
    "{%- else -%}{{ '### Assistant: ' ~ message['content'] ~ '\n' ~ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### Assistant:' }}{%- endif -%}"
)
"""What LLaVA-Med v1 was trained with, apart from the end token, which closes its replies here."""

_FLATTEN = """{{%- set baked = namespace(messages=[], text='', last='') -%}}
{{%- for message in messages -%}}
  {{%- set baked.text = '' -%}}
  {{%- set baked.last = '' -%}}
  {{%- if message['content'] is string -%}}
    {{%- set baked.text = message['content'] -%}}
  {{%- else -%}}
    {{%- for part in message['content'] -%}}
      {{%- if baked.last and 'image' in (baked.last, part['type']) -%}}
        {{%- set baked.text = baked.text ~ '\n' -%}}
      {{%- endif -%}}
      {{%- set baked.last = part['type'] -%}}
      {{%- set baked.text = baked.text ~ ({image} if part['type'] == 'image' else part['text']) -%}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{%- set baked.messages = baked.messages + [dict(message, content=baked.text{wrap})] -%}}
{{%- endfor -%}}
"""

_SYSTEM = """{{%- if not baked.messages or baked.messages[0]['role'] != 'system' -%}}
  {{%- set baked.messages = [{{'role': 'system', 'content': {system}}}] + baked.messages -%}}
{{%- endif -%}}
"""

_REBIND = "{%- set messages = baked.messages -%}\n"


def bake_chat_template(
    template: str, *, system_prompt: str = "", image_marks: tuple[str, str] | None = None
) -> str:
    """Return `template` with everything baked in before it.

    Args:
        template: Jinja over `messages` with string contents.
        system_prompt: opens every conversation that does not bring its own; empty adds none.
        image_marks: text right before and after each image, for models trained with such marks.
    """
    wrap = ""
    if image_marks is not None:
        marked = IMAGE_TOKEN.join(image_marks)
        wrap = f".replace({json.dumps(IMAGE_TOKEN)}, {json.dumps(marked)})"
    head = _FLATTEN.format(image=json.dumps(IMAGE_TOKEN), wrap=wrap)
    if system_prompt:
        head += _SYSTEM.format(system=json.dumps(system_prompt, ensure_ascii=False))
    return head + _REBIND + template
