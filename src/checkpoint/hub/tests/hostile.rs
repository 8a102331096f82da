//! Hubs that lie, and caches that somebody else can write to.

use super::*;
use serde_json::json;

/// Everything in the test's folder, with what links lead to and the sizes of files.
fn all_in(folder: &Path) -> Vec<String> {
    let told = |path: String| match fs::read_link(folder.join(&path)) {
        Ok(target) => format!("{path} -> {}", target.display()),
        Err(_) => format!("{path} {}", fs::metadata(folder.join(&path)).unwrap().len()),
    };
    names_in(folder).into_iter().map(told).collect()
}

#[test]
fn hostile_lists_are_refused_and_nothing_is_written() {
    let sibling = |name: &str| json!({"rfilename": name, "size": 3, "blobId": "1".repeat(40)});
    let many: Vec<_> = (0..100_000).map(|i| sibling(&format!("f{i}"))).collect();
    let mut lists: Vec<Vec<u8>> = [
        vec![sibling("../../../x.safetensors")],
        vec![sibling("/etc/cron.d/x")],
        vec![sibling("a\\..\\x")],
        vec![sibling("a\u{1b}[2J")],
        vec![sibling("config.json"), sibling("CONFIG.json")],
        vec![sibling("config.json"), sibling("config.json/x")],
        many,
    ]
    .into_iter()
    .map(|siblings| json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes())
    .collect();
    lists.push(json!({"sha": "../".repeat(13) + "a", "siblings": []}).to_string().into_bytes());
    lists.push(vec![b' '; 50 << 20]);
    lists.push(b"[".repeat(1 << 20));
    let hub = Hub::sharded();
    for list in lists {
        let shown = String::from_utf8_lossy(&list[..list.len().min(100)]).into_owned();
        hub.set(|s| s.list = Some(list));
        let problem = hub.refused("org/tiny");
        assert!(problem.contains("does not answer as a hub does"), "{shown}: {problem}");
        assert!(!problem.contains(|c: char| c.is_control()) && problem.len() < 400, "{shown}: {problem}");
        assert_eq!(all_in(hub.folder.path()), Vec::<String>::new(), "{shown}");
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn another_commit_than_the_one_asked_for_is_refused() {
    let hub = Hub::sharded();
    let other = json!({"sha": "f".repeat(40), "siblings": []}).to_string();
    hub.set(|s| s.list = Some(other.into_bytes()));
    let problem = hub.refused(&format!("org/tiny@{COMMIT}"));
    assert!(problem.contains(&format!("it names commit {}", "f".repeat(40))), "{problem}");
}

#[test]
fn altered_bytes_are_not_kept() {
    for file in [CONFIG, SHARDS[0], "additional_chat_templates/tool use.jinja"] {
        let hub = Hub::sharded();
        let mut other = sharded_files()[file].clone();
        other[1] ^= 1;
        hub.set(|s| _ = s.bodies.insert(file.into(), other.clone()));
        let problem = hub.refused("org/tiny");
        let kind = if file == SHARDS[0] { "SHA-256" } else { "git SHA-1" };
        assert!(
            problem.contains(&format!("{file}: the hub names {kind}")) && problem.contains("is not kept"),
            "{problem}"
        );
        let kept = names_in(hub.folder.path());
        assert!(kept.iter().all(|name| !name.contains("incomplete") && !name.ends_with(file)), "{kept:?}");
        let names =
            [sha256(&other), git_sha1(&other), sha256(&sharded_files()[file]), git_sha1(&sharded_files()[file])];
        assert!(kept.iter().all(|kept| names.iter().all(|name| !kept.ends_with(name))), "{kept:?}");
        hub.set(|s| s.bodies.clear());
        hub.fetch("org/tiny").unwrap();
    }
}

#[test]
fn a_snapshot_holds_no_more_than_its_commit() {
    let hub = Hub::sharded();
    let folder = hub.fetch("org/tiny").unwrap();
    // What another tool fetched is no file that was left.
    let left = sharded_files()["pytorch_model.bin"].clone();
    fs::write(folder.join("pytorch_model.bin"), left).unwrap();
    let found = fetch(&"org/tiny".parse().unwrap(), &hub.settings(), &Silent).unwrap();
    assert_eq!(found.origin.not_fetched, []);
    for planted in ["adapter_config.json", "additional_chat_templates/other.jinja"] {
        fs::write(folder.join(planted), "{}").unwrap();
        let problem = hub.refused("org/tiny");
        assert!(problem.contains(planted) && problem.contains("is no file of this commit; remove it"), "{problem}");
        fs::remove_file(folder.join(planted)).unwrap();
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let hub = Hub::sharded();
    hub.set(|s| _ = s.sizes.insert(CONFIG.into(), 1 << 45));
    assert!(hub.refused("org/tiny").contains("it lists config.json with 35184372088832 bytes, expected at most"));
    hub.set(|s| _ = s.sizes.insert(CONFIG.into(), 1 << 39));
    let problem = hub.refused("org/tiny");
    assert!(problem.contains("config.json: the endpoint lists it with 549755813888 bytes but offers 21"), "{problem}");
    // It says the same in both places.
    hub.set(|s| {
        s.sizes.clear();
        s.names_only = true;
        s.files.insert(CONFIG.into(), Vec::new());
    });
    hub.set(|s| _ = s.bodies.insert(CONFIG.into(), vec![b' '; 300 << 20]));
    let problem = hub.refused("org/tiny");
    assert!(problem.contains("config.json has 300.0 MiB") && problem.contains("at most 256.0 MiB"), "{problem}");
}

#[test]
fn a_list_of_names_alone_serves_and_what_has_no_digest_does_not() {
    let hub = Hub::sharded();
    hub.set(|s| s.names_only = true);
    let found = fetch(&"org/tiny".parse().unwrap(), &hub.settings(), &Silent).unwrap();
    assert_eq!(names_in(&found.folder), [CONFIG, SHARDS[0], SHARDS[1], INDEX, TOKENIZER]);
    let left: Vec<&str> = found.origin.not_fetched.iter().map(|file| file.path.as_str()).collect();
    assert!(left.contains(&"modeling_tiny.py") && left.contains(&"pytorch_model.bin"), "{left:?}");

    let hub = Hub::sharded();
    hub.set(|s| (s.names_only, s.no_etags) = (true, true));
    assert!(hub.refused("org/tiny").contains("config.json: the endpoint gives no digest"));
}

#[test]
fn what_drips_is_left() {
    let patience = Duration::from_secs(1);
    for file in [CONFIG, SHARDS[0]] {
        let hub = Hub::sharded();
        hub.set(|s| s.drip = Some((file.into(), Duration::from_millis(100))));
        let start = Instant::now();
        let settings = HubSettings { patience, ..hub.settings() };
        let problem = fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap_err().to_string();
        assert!(problem.contains(&format!("{file} arrives too slowly")), "{problem}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let hub = Hub::sharded();
    hub.set(|s| s.endless_headers = true);
    let start = Instant::now();
    let settings = HubSettings { patience, ..hub.settings() };
    assert!(fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).is_err());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn small_files_are_fetched_but_not_without_end() {
    let mut files = sharded_files();
    files.extend((0..1100).map(|i| (format!("notes/{i:04}.txt"), vec![])));
    files.insert("onnx/model.onnx".into(), vec![0; SMALL as usize + 1]);
    let hub = Hub::new(files);
    hub.set(|s| s.refuse_files = Some((404, "")));
    // Only the plan matters here.
    let settings = hub.settings();
    let id: HubId = "org/tiny".parse().unwrap();
    let Ok(listing) = Remote::new(&id, &settings).unwrap().listing() else { panic!() };
    let small = small_files(&id, &listing).unwrap();
    assert!(small.iter().any(|f| f == "notes/0900.txt") && small.iter().all(|f| f != "notes/1099.txt"));
    assert!(small.iter().all(|f| f != "onnx/model.onnx" && f != "pytorch_model.bin"));
}

#[cfg(unix)]
mod shared_cache {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A file of the user's that no download may touch.
    fn victim(hub: &Hub) -> PathBuf {
        let path = hub.folder.path().join("authorized_keys");
        fs::write(&path, "ssh-ed25519 AAAA real\n").unwrap();
        path
    }

    fn unharmed(victim: &Path) {
        assert_eq!(fs::read_to_string(victim).unwrap(), "ssh-ed25519 AAAA real\n");
    }

    fn kept_name(bytes: &[u8], file: &str) -> String {
        let name = if file.ends_with(".safetensors") { sha256(bytes) } else { git_sha1(bytes) };
        format!("{name}.achilles.incomplete")
    }

    #[test]
    fn a_download_is_not_appended_to_what_a_link_leads_to() {
        for file in [TOKENIZER, SHARDS[0]] {
            for hard in [false, true] {
                let hub = Hub::sharded();
                let victim = victim(&hub);
                let blobs = hub.root().join("blobs");
                fs::create_dir_all(&blobs).unwrap();
                let planted = blobs.join(kept_name(&sharded_files()[file], file));
                if hard {
                    fs::hard_link(&victim, planted).unwrap()
                } else {
                    symlink(&victim, planted).unwrap()
                }
                let folder = hub.fetch("org/tiny").unwrap();
                assert_eq!(fs::read(folder.join(file)).unwrap(), sharded_files()[file]);
                unharmed(&victim);
            }
        }
    }

    #[test]
    fn a_pipe_in_place_of_a_download_does_not_hold_it_up() {
        let hub = Hub::sharded();
        let blobs = hub.root().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let bytes = &sharded_files()[TOKENIZER];
        for name in [kept_name(bytes, TOKENIZER), git_sha1(bytes)] {
            let made = std::process::Command::new("mkfifo").arg(blobs.join(name)).status().unwrap();
            assert!(made.success());
        }
        let folder = hub.fetch("org/tiny").unwrap();
        assert_eq!(&fs::read(folder.join(TOKENIZER)).unwrap(), bytes);
    }

    #[test]
    fn folders_that_are_links_are_not_written_through() {
        for place in [
            "",
            "blobs",
            "snapshots",
            &format!("snapshots/{COMMIT}"),
            "refs",
            &format!("snapshots/{COMMIT}/additional_chat_templates"),
        ] {
            let hub = Hub::sharded();
            let elsewhere = hub.folder.path().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            let link = hub.root().join(place);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&elsewhere, hub.settings().cache.join("models--org--tiny").join(place))
                .or_else(|_| symlink(&elsewhere, hub.root()))
                .unwrap();
            let fetched = hub.fetch("org/tiny");
            // Without a ref the checkpoint is there all the same.
            match place {
                "refs" => assert!(fetched.is_ok()),
                _ => {
                    let problem = fetched.unwrap_err().to_string();
                    assert!(problem.contains("is a link, and nothing is written"), "{place}: {problem}");
                }
            }
            assert_eq!(all_in(&elsewhere), Vec::<String>::new(), "{place}");
        }
    }

    #[test]
    fn what_is_linked_in_place_of_a_file_or_a_blob_is_replaced() {
        let hub = Hub::sharded();
        let folder = hub.fetch("org/tiny").unwrap();
        let victim = victim(&hub);
        let right = sharded_files();
        let blob = |file: &str| folder.join(fs::read_link(folder.join(file)).unwrap());
        let planted = hub.folder.path().join("planted");
        // A pointer that leads elsewhere, to the right size too.
        fs::write(&planted, vec![b' '; right[CONFIG].len()]).unwrap();
        fs::remove_file(folder.join(CONFIG)).unwrap();
        symlink(&planted, folder.join(CONFIG)).unwrap();
        // A pointer to another file's blob, the other way round too.
        let (one, other) =
            (fs::read_link(folder.join(SHARDS[0])).unwrap(), fs::read_link(folder.join(SHARDS[1])).unwrap());
        for (file, target) in [(SHARDS[0], other), (SHARDS[1], one)] {
            fs::remove_file(folder.join(file)).unwrap();
            symlink(target, folder.join(file)).unwrap();
        }
        // A blob that is a link, one with other bytes, a file in place of a pointer.
        let of_tokenizer = blob(TOKENIZER);
        fs::remove_file(&of_tokenizer).unwrap();
        symlink(&victim, &of_tokenizer).unwrap();
        fs::write(blob("chat_template.jinja"), vec![b'x'; right["chat_template.jinja"].len()]).unwrap();
        fs::remove_file(folder.join("modeling_tiny.py")).unwrap();
        fs::write(folder.join("modeling_tiny.py"), vec![b'x'; right["modeling_tiny.py"].len()]).unwrap();
        assert_eq!(hub.fetch("org/tiny").unwrap(), folder);
        for name in names_in(&folder) {
            assert!(fs::read(folder.join(&name)).unwrap() == right[&name], "{name}");
            assert!(fs::read_link(folder.join(&name)).unwrap().starts_with(if name.contains('/') {
                "../../../blobs"
            } else {
                "../../blobs"
            }));
        }
        unharmed(&victim);
        assert_eq!(fs::read(&planted).unwrap(), vec![b' '; right[CONFIG].len()]);
    }

    #[test]
    fn a_ref_is_not_written_through_a_link() {
        let hub = Hub::sharded();
        let victim = victim(&hub);
        fs::create_dir_all(hub.root().join("refs")).unwrap();
        symlink(&victim, hub.root().join("refs/main")).unwrap();
        hub.fetch("org/tiny").unwrap();
        unharmed(&victim);
        assert_eq!(fs::read_to_string(hub.root().join("refs/main")).unwrap(), COMMIT);
    }
}
