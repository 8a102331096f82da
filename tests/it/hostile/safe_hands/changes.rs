//! What changes while it is read, or between two runs.

use super::*;

/// A page that is mapped and dirty can be written again without any time changing.
#[test]
fn a_page_that_was_written_to_is_not_taken_from_the_cache() {
    const WRITER: &str = "import mmap, sys\nf = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); a = int(sys.argv[2])\n\
        m[a] = m[a]; print('dirty', flush=True); sys.stdin.readline()\n\
        m[a:a + 64] = bytes(64); print('written', flush=True); sys.stdin.readline()";
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let fingerprint = "{out}/fingerprint.json";
    assert_eq!(run(&place, &["fingerprint", "{model}", "-o", fingerprint]).0, 0);
    let at = std::fs::read(&weights).unwrap().len() - 64;
    let mut writer = Command::new("python3");
    writer.args(["-c", WRITER]).arg(&weights).arg(at.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut writer) = writer.spawn() else {
        println!("no Python here that could map a file to write to it, so this test shows nothing");
        return;
    };
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "dirty");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let verify = ["verify", "{model}", fingerprint, "--digest-cache"];
    assert_eq!(run(&place, &verify).0, 0);
    assert_eq!(std::fs::read_dir(place.out().join("../.cache/achilles-audit/fingerprint")).unwrap().count(), 3);
    writer.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "written");
    let (code, out, error) = run(&place, &verify);
    assert_eq!(code, 1, "{out}{error}");
    drop(writer.stdin.take());
    writer.wait().unwrap();
    assert_eq!(run(&place, &verify).0, 1);
}

#[test]
fn a_model_that_changes_while_it_is_scanned_gets_no_verdict() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for what in ["replaced by the same", "shortened", "added to"] {
        std::fs::write(&weights, &bytes).unwrap();
        let args = [
            "scan",
            "{model}",
            "--result-cache",
            "--progress=json",
            "--text",
            "Pitchfork called it daring",
            "--samples=2",
        ];
        let mut scan = place.command(&args).spawn().unwrap();
        let mut told = BufReader::new(scan.stderr.take().unwrap());
        // It has begun to look.
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        match what {
            "shortened" => std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap(),
            "added to" => std::fs::write(place.model().join("consolidated.safetensors"), &bytes).unwrap(),
            _ => {
                std::fs::write(place.out().join("new"), &bytes).unwrap();
                std::fs::rename(place.out().join("new"), &weights).unwrap();
            }
        }
        told.read_to_string(&mut line).unwrap();
        let output = wait(scan, 60).unwrap();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{what}: {line}");
        assert!(line.contains("was changed while the model was examined"), "{what}: {line}");
    }
    let kept = place.out().join("../.cache/achilles-audit/scan");
    assert!(std::fs::read_dir(kept).map_or(0, Iterator::count) == 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_that_changes_while_it_is_linted_gets_no_verdict() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    // Weights that take a while.
    let header = r#"{"x":{"dtype":"U8","shape":[8192,8192],"data_offsets":[0,67108864]}}"#;
    let mut large = std::fs::File::create(place.model().join("large.safetensors")).unwrap();
    large.write_all(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    large.write_all(&vec![0; 64 << 20]).unwrap();
    let new = place.out().join("new");
    let replace = |bytes: &[u8]| {
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(&new, &weights).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 3] = [
        ("replaced by the same", &|| replace(&bytes)),
        ("shortened", &|| replace(&bytes[..bytes.len() - 2])),
        ("added to", &|| std::fs::write(place.model().join("added.txt"), "").unwrap()),
    ];
    for (what, change) in changes {
        replace(&bytes);
        // A run that ended before it could be stopped tells nothing.
        let mut caught = (0..50).filter_map(|_| {
            let lint = place.command(&["lint", "{model}"]).spawn().unwrap();
            let caught = while_stopped(&lint, "large.safetensors", change);
            let output = wait(lint, 60).unwrap();
            caught.then(|| told(output))
        });
        let (code, out, error) = caught.next().expect("a run that was stopped on its way");
        assert!(code == 2 && out.is_empty(), "{what}: {code}: {out}{error}");
        assert!(error.contains("was changed while the model was examined"), "{what}: {error}");
    }
}

/// Stops `run` while it has `mapped` in its memory, and makes `change` then: true when it was so.
#[cfg(target_os = "linux")]
fn while_stopped(run: &std::process::Child, mapped: &str, change: &dyn Fn()) -> bool {
    let signal = |name: &str| Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", run.id())).unwrap_or_default();
    let is_mapped = || read("maps").contains(mapped);
    let state = || read("stat").rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    while !is_mapped() {
        if state().is_none_or(|state| state == 'Z') {
            return false;
        }
    }
    signal("-STOP");
    while !matches!(state(), Some('T' | 'Z') | None) {
        std::thread::yield_now();
    }
    let caught = is_mapped();
    if caught {
        change();
    }
    signal("-CONT");
    caught
}

/// What a cache keeps the result of is what was run: the same bytes before and after are not enough.
#[test]
fn weights_that_were_others_in_between_have_other_stamps() {
    let place = Place::new();
    let weights = place.model().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let modified = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let open = || Checkpoint::open(place.model().to_str().unwrap(), &Silent).unwrap();
    let checkpoint = open();
    assert_eq!(checkpoint.stamps(), None, "written a moment ago");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let checkpoint = open();
    let stamps = checkpoint.stamps();
    assert!(stamps.is_some() && stamps == checkpoint.stamps());
    for contents in [vec![0; bytes.len()], bytes] {
        let mut file = std::fs::File::options().write(true).open(&weights).unwrap();
        file.write_all(&contents).unwrap();
        file.set_modified(modified).unwrap();
    }
    assert_eq!(checkpoint.stamps(), None);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(checkpoint.stamps(), None, "changed since it was opened");
    assert!(open().stamps().is_some() && open().stamps() != stamps);
}
