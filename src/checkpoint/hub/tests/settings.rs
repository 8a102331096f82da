//! Ids, and the variables of the environment.

use super::super::*;
use proptest::prelude::*;
use std::fs;

#[test]
fn ids_parse_and_bad_ones_say_why() {
    for good in ["org/name", "Qwen/Qwen2.5-0.5B_x", "org/name@main", "org/name@refs/pr/1", "a/b@v1.0"] {
        assert_eq!(good.parse::<HubId>().unwrap().to_string(), good);
    }
    let id: HubId = "org/name@refs/pr/1".parse().unwrap();
    assert_eq!((id.repo(), id.revision()), ("org/name", "refs/pr/1"));
    assert_eq!("org/name".parse::<HubId>().unwrap().revision(), "main");
    let bad = [
        "",
        "gpt2",
        "a/b/c",
        "/b",
        "a/",
        "a/..",
        "../b",
        "-a/b",
        "a/-b",
        ".a/b",
        "a/b.",
        "a/b--c",
        "a b/c",
        "a/b@",
        "a/b@..",
        "a/b@x/../y",
        "a/b@/x",
        "a/b@x/",
        "a/b@x//y",
        "a/b@-x",
        "a/b@x y",
        "a/b@x@y",
        "ä/b",
        "a/b\n",
        "https://huggingface.co/a/b",
    ];
    for text in bad {
        let problem = text.parse::<HubId>().unwrap_err().to_string();
        assert!(problem.starts_with("hub id \"") && problem.contains("expected "), "{text}: {problem}");
    }
}

proptest! {
    #[test]
    fn any_id_that_parses_prints_back_and_stays_in_the_cache(text in "[a-zA-Z0-9._/@-]{1,24}|[a-z.-]{1,6}/[a-z.-]{1,6}(@[a-z./-]{1,9})?") {
        if let Ok(id) = text.parse::<HubId>() {
            prop_assert_eq!(id.to_string(), text);
            let cache = RepoCache::new(&id, Path::new("/cache")).unwrap();
            let up = std::path::Component::ParentDir;
            prop_assert!(cache.snapshot(id.revision()).components().all(|c| c != up));
        }
    }
}

fn read(vars: &[(&str, &str)]) -> Result<HubSettings> {
    HubSettings::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
}

#[test]
fn variables_are_read_as_the_python_tools_read_them() {
    let plain = read(&[("HOME", "/home/me")]).unwrap();
    assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));
    assert_eq!(read(&[("HF_HOME", "/hf")]).unwrap().cache, Path::new("/hf/hub"));
    assert_eq!(read(&[("HOME", "/me"), ("HF_HOME", "~/hf")]).unwrap().cache, Path::new("/me/hf/hub"));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/xdg")]).unwrap().cache, Path::new("/xdg/huggingface/hub"));
    assert_eq!(read(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]).unwrap().cache, Path::new("/c"));
    assert!(read(&[("HF_HUB_CACHE", "relative")]).unwrap().cache.is_absolute());
    for (value, offline) in
        [("1", true), ("true", true), ("Yes", true), ("ON", true), ("0", false), ("", false), ("2", false)]
    {
        assert_eq!(read(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
    }
    let problem = read(&[]).unwrap_err().to_string();
    assert!(problem.contains("HOME is not set; set HF_HOME"), "{problem}");
}

#[test]
fn the_token_comes_from_the_variable_or_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    let home = ("HF_HOME", folder.path().to_str().unwrap());
    assert_eq!(read(&[home]).unwrap().token.as_deref(), Some("hf_file"));
    assert_eq!(read(&[home, ("HF_TOKEN", " hf_var\n")]).unwrap().token.as_deref(), Some("hf_var"));
    let disabled = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    assert_eq!(read(&[home, ("HF_TOKEN", "hf_var"), disabled]).unwrap().token, None);
}
