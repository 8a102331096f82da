//! Files that appear whole or not at all: written beside, synced, renamed.

use super::kind::{is_beside_weights, is_weights};
use super::new_folder::UNFINISHED;
use super::way;
use crate::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Fails where [`write_whole`] would: before the work, not after it.
///
/// # Errors
/// `path` is something that is not replaced, or its folder is missing or cannot be written to.
pub fn check_writable(path: &Path) -> Result<()> {
    if stream(path).map_err(Error::io(path))?.is_some() {
        return Ok(());
    }
    replaced(path)?;
    tempfile::tempfile_in(way::place(path)?).map(drop).map_err(Error::io(path))
}

/// Writes `bytes` to `path`, replacing what is there only when all of them are on disk.
///
/// Nothing is ever written through a link or into a pipe or device: in a folder that others write to, whoever puts one
/// there would choose where the bytes go. Nor through a linked folder in a model's. Only what the user names outright
/// is a stream: `/dev/stdout`, `/dev/stderr`, `/dev/null`, `/dev/tty` and `/dev/fd/N`.
///
/// # Errors
/// `path` is something that is not replaced, or the system refuses; then `path` is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(mut stream) = stream(path).map_err(Error::io(path))? {
        return stream.write_all(bytes).map_err(Error::io(path));
    }
    let replaced = replaced(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What was private stays private.
        let mode = replaced.map_or(0o644, |permissions| permissions.mode() & 0o777);
        builder.permissions(Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    drop(replaced);
    let folder = way::place(path)?;
    let name = path.file_name().ok_or_else(|| Error::file(path, "is no name for a file"))?;
    let mut file = builder.tempfile_in(&folder).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(path))?;
    // Should a link have come here since, it is the link that goes.
    file.persist(folder.join(name)).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

/// The permissions of the file that is to be replaced; none where there is none.
fn replaced(path: &Path) -> Result<Option<Permissions>> {
    let about = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(Error::io(path))?,
    };
    let problem = match about.file_type() {
        t if t.is_file() && is_a_models(path) => {
            "is a file that loaders of models read, and no result replaces such; choose another name"
        }
        t if t.is_file() => return Ok(Some(about.permissions())),
        t if t.is_symlink() => {
            "is a link, and results are not written through links; remove it, or name the file that it leads to"
        }
        t if t.is_dir() => "is a folder, expected the name of a file",
        _ => "is a pipe, socket or device, expected the name of a file",
    };
    Err(Error::file(path, problem))
}

fn is_a_models(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_weights(name) || is_beside_weights(name))
}

/// What a path outside of any folder stands for.
#[cfg(unix)]
fn stream(path: &Path) -> std::io::Result<Option<File>> {
    use std::os::fd::AsFd;
    let Some(path) = path.to_str() else { return Ok(None) };
    match path {
        "/dev/stdout" => std::io::stdout().as_fd().try_clone_to_owned().map(|fd| Some(fd.into())),
        "/dev/stderr" => std::io::stderr().as_fd().try_clone_to_owned().map(|fd| Some(fd.into())),
        "/dev/null" | "/dev/tty" => File::options().append(true).open(path).map(Some),
        _ if path.starts_with("/dev/fd/") => File::options().append(true).open(path).map(Some),
        _ => Ok(None),
    }
}

#[cfg(not(unix))]
fn stream(_: &Path) -> std::io::Result<Option<File>> {
    Ok(None)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_files_are_replaced() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("theirs"), "theirs").unwrap();
        symlink("theirs", at("link")).unwrap();
        symlink("/dev/stdout", at("stream")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        for (name, says) in [
            ("link", "is a link"),
            ("dangling", "is a link"),
            ("stream", "is a link"),
            ("folder", "is a folder"),
            ("pipe", "is a pipe"),
            ("none/file", "create it first"),
        ] {
            for error in [check_writable(&at(name)).unwrap_err(), write_whole(&at(name), b"ours").unwrap_err()] {
                assert!(error.to_string().contains(says), "{name}: {error}");
            }
        }
        for name in
            ["model-00001-of-00002.safetensors", "pytorch_model.bin", "x.gguf", "config.json", "tokenizer_config.json"]
        {
            std::fs::write(at(name), "a model's").unwrap();
            for error in [check_writable(&at(name)).unwrap_err(), write_whole(&at(name), b"ours").unwrap_err()] {
                assert!(error.to_string().contains("is a file that loaders of models read"), "{name}: {error}");
            }
            assert_eq!(std::fs::read(at(name)).unwrap(), b"a model's");
        }
        assert_eq!(std::fs::read(at("theirs")).unwrap(), b"theirs");
        assert!(!at("gone").exists() && at("link").is_symlink());

        write_whole(&at("file"), b"ours").unwrap();
        std::fs::set_permissions(at("file"), Permissions::from_mode(0o4600)).unwrap();
        std::fs::hard_link(at("file"), at("name")).unwrap();
        write_whole(&at("file"), b"again").unwrap();
        assert_eq!(std::fs::metadata(at("file")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(
            (std::fs::read(at("file")).unwrap(), std::fs::read(at("name")).unwrap()),
            (b"again".into(), b"ours".into())
        );
        for name in ["/dev/null", "/dev/stderr"] {
            check_writable(Path::new(name)).unwrap();
            write_whole(Path::new(name), b"").unwrap();
        }
        assert!(!Path::new("/dev/null").is_file());
    }
}
