#!/usr/bin/env python3
"""Makes chat_goldens.json: chat templates and what Jinja2, set up as transformers does it, renders from them.

    python3 tests/golden/tokenizers/make_chat_goldens.py

The templates are of our own writing; each uses the constructs of one family of published templates. The cases of
"language" try one construct each. A case is {name, template, messages, variables, expected} or, where the template
refuses, {..., error}.
"""
import json
from datetime import datetime, timezone

from make_goldens import HERE, enter_environment

if __name__ == "__main__":
    enter_environment()

NOW = 1_700_000_000

FAMILIES = {
    "chatml": """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}""",
    "llama2": """
{%- if messages[0]['role'] == 'system' -%}
  {%- set rest = messages[1:] %}{% set system = messages[0]['content'] -%}
{%- else -%}
  {%- set rest = messages %}{% set system = false -%}
{%- endif -%}
{%- for m in rest -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
  {%- endif -%}
  {%- if loop.index0 == 0 and system != false -%}
    {%- set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] -%}
  {%- else -%}{%- set text = m['content'] -%}{%- endif -%}
  {%- if m['role'] == 'user' -%}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
  {%- elif m['role'] == 'assistant' -%}{{ ' ' + text.strip() + ' ' + eos_token }}
  {%- endif -%}
{%- endfor -%}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none and tools is defined %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("One tool call at a time!") }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
        {%- if message == user_messages[-1] %}{{- "<last>" -}}{%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>' ~ message.role ~ '\\n<think>\\n' ~ reasoning.strip('\\n') ~ '\\n</think>\\n\\n' ~ content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
""",
    "smollm3": """{# ---- defaults ---- #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{# ---- mode ---- #}
{%- if enable_thinking -%}{%- set mode = "/think" -%}{%- else -%}{%- set mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}{%- set mode = "/no_think" -%}{%- endif -%}
  {%- set custom = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{%- macro header(title, level=2) -%}
{{ "#" * level }} {{ title }}
{% endmacro -%}
{{- header("Metadata") ~ "Date: " ~ strftime_now("%d %B %Y") ~ "\\nMode: " ~ mode ~ "\\n\\n" -}}
{{- header(level=3, title="Instructions") -}}
{%- if custom -%}{{ custom + "\\n\\n" }}{%- elif mode == "/think" -%}{{ "Think first.\\n\\n" }}{%- endif -%}
{%- if xml_tools or python_tools or tools -%}
  {%- set ns = namespace(text="tools:\\n") -%}
  {%- for tool in (xml_tools or tools) | list -%}
    {%- set ns.text = ns.text ~ (tool | string) ~ "\\n" -%}
  {%- endfor -%}
  {{- ns.text -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if mode == "/think" -%}
            {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}{{ "<|im_start|>" + "user\\n"  + content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if mode == "/think" -%}{{ "<|im_start|>assistant\\n" }}
    {%- else -%}{{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n"  }}
    {%- endif -%}
{%- endif -%}
""",
}

USER = {"role": "user", "content": "  What is under the mill? \u6cb3 \U0001f600 \n"}
ASSISTANT = {"role": "assistant", "content": "<think>\nmud\n</think>\n\nTen thousand pages. "}
SYSTEM = {"role": "system", "content": "You are a river. /no_think "}
AGAIN = {"role": "user", "content": "Who wrote them?"}
TOOL = {"type": "function", "function": {"name": "dig", "description": "It's \"deep\" <&> \u00e9", "parameters": {"depth": 1.5, "n": [1, 2, []], "ok": True, "none": None, "e": {}}}}

CONVERSATIONS = [
    ([USER], {}),
    ([SYSTEM, USER], {}),
    ([SYSTEM, USER, ASSISTANT, AGAIN], {"add_generation_prompt": False}),
    ([USER, ASSISTANT, AGAIN, ASSISTANT], {"enable_thinking": False}),
    ([USER, ASSISTANT, AGAIN], {"tools": [TOOL], "enable_thinking": False}),
    ([USER, USER], {}),
    ([SYSTEM, {"role": "tool", "content": "x"}, USER], {"date_string": "1 Jan 2030"}),
]

LANGUAGE = [
    "a\n  {% if true %}\nb\n  {% endif %}\n c\n",
    "  {%+ if true %}x{% endif +%}\n y {# note #}\nz {#- note -#}  w",
    "{{ 1 }}\n{{ 2 -}}\n\n {{- 3 }}\n",
    "x {%- set a = 1 -%} y {{ a }}\r\nb\rc",
    "{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in range(10, 0, -3) %}{{ loop.index }}:{{ i }}:{{ loop.revindex }}:{{ loop.first }} {% endfor %}",
    "{% for i in range(10) if i is odd %}{{ loop.length }}-{{ i }} {% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for k, v in {'a': 1, 'b': [2, 'x']}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{% for c in 'h\u00e9\u6cb3' %}{{ c }}.{% endfor %}{% for i in [1,2,3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}",
    "{% set x = 1 %}{% for i in range(3) %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1, y='') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}|{{ ns.z }}",
    "{% if true %}{% set y = 5 %}{% endif %}{{ y }}{% set z %}block {{ y }}{% endset %}[{{ z }}]",
    "{% macro m(a, b='B', c=none) %}({{ a }}{{ b }}{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, c=2) }}{{ m(a='x', b='y') }}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 * 3.5 }} {{ 1 - 2 - 3 }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }} {{ -3 + 1 }}",
    "{{ 1.0 }} {{ 1e3 if false else 0.1 }} {{ 100000.0 * 100000.0 * 1000000000.0 }} {{ 1 / 3 }} {{ 0.00001 }}",
    "{{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ 'a' == 1 }} {{ [1, 'x'] == [1, 'x'] }} {{ {'a': 1} == {'a': 1} }} {{ none == false }} {{ true == 1 }}",
    "{{ 1 in [1, 2] }} {{ 'b' in 'abc' }} {{ 'a' in {'a': 1} }} {{ 3 not in [1] }} {{ not 1 in [1] }} {{ 'x' in undefined_thing }}",
    "{{ true and 'x' }} {{ 0 or 'y' }} {{ not '' }} {{ none or [] or 'z' }} {{ 'a' if 0 }}|{{ 'a' if 1 else 'b' if 1 else 'c' }}",
    "{{ none }} {{ true }} {{ [1, 'a', none, true, 1.5, {'k': \"it's\"}] }} {{ 'q\"' }} {{ ['q\"\\'', 'tab\\t'] }}",
    "{{ 'abcdef'[1:3] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-2:] }} {{ [1,2,3,4][::2] }} {{ [1,2,3][5:] }} {{ 'h\u00e9\u6cb3x'[1:3] }} {{ 'abc'[-1] }} {{ [1,2,3][-1] }} {{ [1,2,3][:-1] }} {{ 'abcdef'[4:1:-1] }} {{ 'abc'[10:0:-5] }}",
    "{{ undefined_thing }}|{{ messages[0].nothing }}|{{ messages[9] }}|{{ undefined_thing is defined }}|{{ undefined_thing | default('d') }}|{{ '' | default('e', true) }}|{{ none | d('n') }}",
    "{{ 'x' is string }} {{ 1 is string }} {{ {} is mapping }} {{ [] is iterable }} {{ 'x' is iterable }} {{ 1 is iterable }} {{ [] is sequence }} {{ 1 is number }} {{ true is number }} {{ 1.5 is float }} {{ 1 is integer }} {{ true is boolean }} {{ none is none }} {{ none is not none }} {{ 0 is false }} {{ false is false }}",
    "{{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 2 is gt 1 }} {{ 2 is in [2] }} {{ 3 is even }} {{ messages is defined and messages is iterable }}",
    "{{ '  a b \u3000' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' a '.strip() }}|{{ 'xya'.lstrip('yx') }}|{{ 'a\\n\\n'.rstrip('\\n') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|",
    "{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(None, 1) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'l1\\nl2\\n'.splitlines() }}",
    "{{ 'a-b-c'.replace('-', '+') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abcabc'.find('c') }} {{ 'abcabc'.count('bc') }} {{ 'abc'.find('z') }}",
    "{{ 'stra\u00dfe \u00e9a' | upper | lower }} {{ 'hello wORLD' | title }} {{ 'hello wORLD' | capitalize }} {{ 'a'.upper() }} {{ 'B'.lower() }} {{ 'ab cd'.title() }}",
    "{{ [3, 1] | length }} {{ 'h\u00e9' | length }} {{ {'a': 1} | count }} {{ undefined_thing | length }} {{ [1, 2] | first }} {{ [1, 2] | last }} {{ [1, 2] | join('-') }} {{ ['a'] | join }} {{ [1, 2, 1] | unique | list }} {{ [1, 2] | reverse | list }} {{ 'abc' | reverse }}",
    "{{ '12' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '1.5' | float }} {{ -4 | abs }} {{ 5 | string + '!' }} {{ 'ab' | list }}",
    "{{ {'a': 1, 'b': [1, 2.5, none, true, '\u00e9\"\\\\\\n<'], 'c': {}, 'd': []} | tojson }}\n{{ {'a': [1, {'b': 2}], 'c': {}} | tojson(indent=2) }}\n{{ [] | tojson(indent=4) }}{{ 'x' | tojson }}{{ 1.0 | tojson }}",
    "{{ [{'n': 1, 'x': true}, {'n': 2}] | selectattr('x') | map(attribute='n') | list }} {{ [{'n': 1}, {'n': 2}] | rejectattr('n', 'equalto', 1) | list }} {{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('gt', 1) | list }} {{ ['a', 'b'] | map('upper') | join(',') }} {{ [{'n': 1}, {'n': 2}] | selectattr('n', 'in', [2, 3]) | list }}",
    "{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }} {{ [{}] | map(attribute='q', default='z') | list }} {{ [{'a': 1}, {'a': 2}] | join(', ', attribute='a') }}",
    "{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 'c') }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'a': 1} | items | list | length }} {{ dict(a=1)['a'] }} {{ {'a': 1}.a }}",
    "{{ 'a' ~ 1 ~ none ~ [1] }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ 'ab' * 3 }}|{{ 'x' * 0 }}| {{ 'con' 'cat' }} {{ 'esc\\x41\\u00e9\\'\\q' }}",
    "{{ (1, 2) | length }} {{ [1, 2,] }} {{ {'a': 1,} }} {{ ',' .join(['a', 'b']) }} {% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
    "{{ 'line1\\nline2\\n\\nline3' | indent(2) }}|{{ 'a\\nb' | indent(width=3, first=true) }}|{{ 'x' | safe }}",
    "{% set m = messages | length %}{{ m }}{% set t = 1, 2 %}{{ t[1] }}{{ strftime_now('%Y-%m-%d %H:%M:%S %A') }}",
    "{{ raise_exception('because ' + messages[0].role) }}",
    "{{ undefined_thing.attribute }}",
    "{{ 'a' + 1 }}",
    "{{ 1 // 0 }}",
    "{% for x in 5 %}{% endfor %}",
    "{{ none | tojson }}{{ undefined_thing | tojson }}",
    "{{ {'a': {}}}}{% raw_is_not_special = 1 %}" if False else "{{ {'a': {}} }}{{- '}}' }}{{ '%}' }}",
]  # fmt: skip


def make_environment():
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}...{% endgeneration %} is its body."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.fromtimestamp(NOW, timezone.utc).strftime(text)
    return environment


def main():
    environment = make_environment()
    cases = []

    def add(name, template, messages, variables):
        case = {"name": name, "template": template, "messages": messages, "variables": variables}
        defaults = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
        try:
            case["expected"] = environment.from_string(template).render({**defaults, "messages": messages, **variables})
        except Exception as error:  # whatever a template does wrong
            case["error"] = str(error)
        cases.append(case)

    for family, template in FAMILIES.items():
        for index, (messages, variables) in enumerate(CONVERSATIONS):
            add(f"{family}/{index}", template, messages, variables)
    for index, template in enumerate(LANGUAGE):
        add(f"language/{index}", template, [USER], {})
    with open(HERE / "chat_goldens.json", "w", encoding="ascii") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
