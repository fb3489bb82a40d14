//! Copies the agent's own binary to where the Redis container finds it, so that any stock image of the engine serves.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cachecluster_contract::paths;

/// Copies the running executable into `dir`, executable for all.
///
/// The copy is made under another name and renamed, so that whoever finds the binary finds all of it.
///
/// # Errors
/// When `dir` cannot be written to.
pub fn install(dir: &Path) -> io::Result<()> {
    let name = Path::new(paths::AGENT_BINARY)
        .file_name()
        .unwrap_or_default();
    let staged = dir.join(".cachecluster-agent.new");
    fs::create_dir_all(dir)?;
    fs::copy("/proc/self/exe", &staged)?;
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o755))?;
    fs::rename(&staged, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_and_executable_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("bin");
        for _ in 0..2 {
            install(&target).unwrap();
            let copy = target.join("cachecluster-agent");
            assert_eq!(
                fs::read(&copy).unwrap(),
                fs::read("/proc/self/exe").unwrap()
            );
            assert_eq!(
                fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
                0o755
            );
            assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        }
    }
}
