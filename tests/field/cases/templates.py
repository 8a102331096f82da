"""Chat templates that reach for Python, and ones that only speak of it."""

import st

CONFIG = {
    "lipsum": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "attr-filter": "{{ ''|attr('__cla'+'ss__') }}",
    "hex-escapes": r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}",
    "map-attribute": "{{ messages|map(attribute='__class__')|list }}",
    "name-from-a-variable": "{% set u='_'*2 %}{{ ''[u~'class'~u] }}",
    "own-context": "{{ '%s'|format(self._TemplateReference__context) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'x' as y %}",
    "prose": "{{ bos_token }}Answer what is asked. Use os.path and __init__ carefully."
             "{% raw %}{{ x.__class__ }}{% endraw %}{# __class__ #}"
             "{% for m in messages %}{{ m['role'] }}{{ m['content']|trim }}{% endfor %}",
    "prose-in-strings": "{{ 'call __init__ to start' }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
                        "{% if not messages %}{{ raise_exception('bad __role__') }}{% endif %}",
    "usual": "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.tool_calls is defined %}"
             "{{ m.tool_calls | tojson }}{% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
             "{{ strftime_now('%d %b %Y') }}",
}


def build(d):
    for name, template in CONFIG.items():
        st.dump(st.folder(d / name) / "tokenizer_config.json", {**st.TOKENIZER_CONFIG, "chat_template": template})
    cycler = "{% set x = cycler.__init__.__globals__ %}{{ x.os.popen('id') }}"
    st.write(st.folder(d / "own-file") / "chat_template.jinja", cycler)
    padded = "{# " + "x" * 400_000 + " #}{{ ''.__class__ }}"
    st.write(st.folder(d / "far-into-a-file") / "chat_template.jinja", padded)
    further = st.folder(d / "further-templates") / "additional_chat_templates/x.jinja"
    st.write(further, "{{ ''.__class__ }}")
    joined = {"chat_template": "{{ ''['__cla' ~ 'ss__'] }}"}
    st.dump(st.folder(d / "own-json") / "chat_template.json", joined)
    listed = [{"name": "default", "template": "ok"}, {"name": "tool_use", "template": "{{ ''.__class__.__mro__ }}"}]
    st.dump(st.folder(d / "list") / "tokenizer_config.json", {**st.TOKENIZER_CONFIG, "chat_template": listed})
