//! When the data set on disk was last written to.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Directory of the append-only files: the server's own default, which users may not change.
const APPEND_ONLY: &str = "appendonlydir";

/// When something was last written to the append-only files. `None` when there are none.
///
/// Every write that a client was told of is in the file before the answer is out; nothing else is ever appended. A
/// rewrite makes new files without new data, so that the true time of the last write may be earlier, but is never later.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn last_write(data_dir: &Path) -> io::Result<Option<SystemTime>> {
    let entries = match fs::read_dir(data_dir.join(APPEND_ONLY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut last = None;
    for entry in entries {
        let entry = entry?;
        if entry.path().extension().is_some_and(|end| end == "aof") {
            last = last.max(Some(entry.metadata()?.modified()?));
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_latest_of_the_append_only_files_counts_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_write(dir.path()).unwrap(), None);
        let files = dir.path().join(APPEND_ONLY);
        fs::create_dir(&files).unwrap();
        assert_eq!(last_write(dir.path()).unwrap(), None);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (name, seconds) in [
            ("appendonly.aof.1.incr.aof", 20),
            ("appendonly.aof.2.incr.aof", 30),
            ("appendonly.aof.manifest", 40),
        ] {
            let file = fs::File::create(files.join(name)).unwrap();
            file.set_modified(at(seconds)).unwrap();
        }
        assert_eq!(last_write(dir.path()).unwrap(), Some(at(30)));
    }
}
