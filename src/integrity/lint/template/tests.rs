//! Which templates are told, and which published ones are not.

use super::*;

fn names(template: &str) -> Vec<String> {
    examine(template).into_iter().map(|h| h.what).collect()
}

#[test]
fn names_that_escape_are_found() {
    for (template, expected) in [
        ("{{ x.__class__ }}", "__class__"),
        ("{{ x.__anything__ }}", "__anything__"),
        ("{{ x['__class__'] }}", "__class__"),
        ("{%- set a = cycler.__init__ -%}", "__init__"),
        ("{{ x[\"__globals__\"] }}", "__globals__"),
        ("{{ x['__cla'~'ss__'] }}", "__class__"),
        ("{{ x['__odd'~ ('ly') + '__'] }}", "__oddly__"),
        ("{{ x['__cla' 'ss__'] }}", "__class__"),
        ("{{ x[['__','class','__']|join] }}", "__class__"),
        (r"{{ x['\x5f\x5fclass\x5f\x5f'] }}", "__class__"),
        (r"{{ x['\u005f\137cla\N{low line}ss__'] }}", "__cla_ss__"),
        ("{{ '{0.__class__}'.format(x) }}", "__class__"),
        ("{{ {'a': {}}['a'].__class__ }}", "__class__"),
        ("{{ '}}' ~ x.__odd__ }}", "__odd__"),
        ("{{ x.gi_frame.f_back }}", "gi_frame"),
        ("{% raw %}{{ \" {% endraw %}{{ x.__odd__ }}", "__odd__"),
        ("{{ self._TemplateReference__context }}", "_TemplateReference__context"),
        ("{{ self['_TemplateReference__context'] }}", "_TemplateReference__context"),
        ("{{ x._private }}", "_private"),
        ("{% set u='_'*2 %}{{ ''[u~'class'~u] }}", "__class__"),
        ("{% set u='_' %}{% set k=u~u~'class'~u~u %}{{ ''[k] }}", "__class__"),
        ("{% set u = '_' * 2 %}{{ x[u + 'odd' + u] }}", "__odd__"),
        ("{{ x|map(attribute='__class__.__mro__')|list }}", "__class__"),
        ("{% if x[['__', 'init', '__']|join('')] %}{% endif %}", "__init__"),
        ("{{ {'a': (1, [2])}['a'].__odd__ }}", "__odd__"),
        ("{{ '%}' ~ x.__odd__ }}{% if '}}' in x.__odder__ %}", "__odder__"),
        ("{% raw %}{% endrawx %}{% endraw %}{{ x.__odd__ }}", "__odd__"),
        ("{% raw %}{{ x }}{%- endraw -%}{{ x.__odd__ }}", "__odd__"),
        ("{{ x|attr(name) }}", "the filter attr"),
        ("{% include '/etc/passwd' %}", "{% include %}"),
        ("{%- import 'x' as y %}", "{% import %}"),
        ("{%+ from 'x' import y %}", "{% from %}"),
        ("{% extends x %}", "{% extends %}"),
    ] {
        assert!(names(template).contains(&expected.to_owned()), "{template}: {:?}", names(template));
    }
}

#[test]
fn names_put_together_at_run_time_are_found() {
    for template in [
        "{{ ''[a ~ 'class' ~ a] }}",
        "{{ x['%c%cclass'|format(95, 95)] }}",
        "{{ x['ssalc'|reverse] }}",
        "{{ x['class'.center(9, u)] }}",
        "{{ x[['a', b]|join] }}",
        "{{ x[('_' + y)] }}",
        "{{ x['a%s' % y] }}",
        "{% set k = a ~ 'class' %}{{ x[k] }}",
        "{% for k in ['x y'.replace('x', y)] %}{{ z[k] }}{% endfor %}",
        "{{ x|map(attribute=a~'class'~a)|list }}",
        "{% set k %}__class__{% endset %}{{ x[k] }}",
        "{% macro k(a, b) %}__class__{% endmacro %}{{ x[k(1, 2)] }}",
    ] {
        let kinds: Vec<HitKind> = examine(template).into_iter().map(|h| h.kind).collect();
        assert_eq!(kinds, [HitKind::Computed], "{template}");
    }
}

#[test]
fn plain_templates_pass() {
    for template in [
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content ~ '<|im_end|>' }}{% endfor %}",
        "{% if x.attr is defined %}{{ x.attr }}{% endif %}{{ tool | tojson(indent=4) }}",
        "{%- set ns = namespace(is_first=false, text='__') -%}{{ ns.text ~ '__' }}{{ '____' }}",
        "{% raw %}{{ x.__odd__ }}{% endraw %}",
        "{# x.__odd__ #}if __name__ == '__main__': {{ raise_exception('a\\'b') }}",
        "{{ a.mro_count }}{{ mro }}",
        "Call __init__ or __class__ of {0.__class__}, as {{ 'in __init__ of' }}{# x.__class__ #}",
        "{{ 'call __init__ to start' }}{{ raise_exception('bad __role__ in {\"a\": x.__class__}') }}",
        "{% set _ = ns.update(a=1) %}{{ messages[loop.index0 + 1]['role'] }}{{ x[-1] }}{{ x[i % 2] }}",
        "{{ m['role' if m.role is defined else 'from'] }}{{ x[messages|length - 1] }}{{ types[p.get('type')] }}",
        "{{ m.content[:m.content.find('a' ~ b)] }}{{ x['a'] ~ y['b'] }}{{ x[y['a'] + 1] }}",
        "{% set k = m['role'] | trim %}{{ names[k] }}{% for k in d.keys() | sort %}{{ d[k] }}{% endfor %}",
        "{% set parts = m.content.split('</think>') %}{{ parts[parts | length - 1] }}",
        "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ users[0] }}",
        "",
        "{{",
        "{{ '",
        "{{ '\\",
        "{%",
        "{# ",
        "{% raw %}",
        "{",
    ] {
        assert_eq!(names(template), Vec::<String>::new(), "{template}");
    }
}

/// Templates as their models are published with.
#[test]
fn published_templates_pass() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/chat_templates.json");
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, template) in all["templates"].as_object().unwrap() {
        assert_eq!(names(template["template"].as_str().unwrap()), Vec::<String>::new(), "{name}");
    }
}

/// What a hostile template repeats must not make the search slow: each of these is some 2 MB.
#[test]
fn time_grows_with_length_only() {
    let parts = [
        "{{}}",
        "{%raw%}",
        "{#",
        "{{'__a__',",
        "{{x.__a__}}",
        "__class__",
        "{",
        "'",
        "\\x",
        "{{'__a__'~",
        "{%set a=a~a~'_'%}",
        "{{[",
        "{{a['b'*9*9",
    ];
    let begin = std::time::Instant::now();
    for part in parts {
        examine(&part.repeat(2_000_000 / part.len()));
    }
    // Hours, where it grew with the square.
    assert!(begin.elapsed().as_secs() < 300, "{:?}", begin.elapsed());
}
