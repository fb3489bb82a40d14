//! Tests that need a network of their own, in which packets can be dropped without anybody else noticing.

use std::process::{Command, Stdio};

/// Set for the process that runs within the network.
const INSIDE: &str = "CACHECLUSTER_TEST_OWN_NETWORK";
/// Set by whoever cannot run such tests.
const LEFT_OUT: &str = "CACHECLUSTER_TEST_NO_NETWORKS";

/// Runs the test of this name (its path within the crate) again in a network namespace of its own, in which it is told
/// `true`: do it now. The test outside is told `false`, when the one inside has passed. Where that is not possible the test
/// fails and says what is missing, unless it was said before that it is to be left out.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // The user namespace makes this possible without being root, the one of mounts gives the test its own /etc/hosts.
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c", script]);
        command
    };
    let can = "ip link set lo up && iptables -A INPUT -p tcp --dport 9 -j DROP";
    let possible = unshare(can)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if std::env::var_os(LEFT_OUT).is_some() {
        return false;
    }
    assert!(
        possible,
        "this test needs unshare, ip and iptables, and a kernel that lets you make network namespaces: install them, or run \
         it as root, or set {LEFT_OUT}=1 to leave out all that need them"
    );
    let script = r#"ip link set lo up && exec "$0" --exact "$1" --nocapture"#;
    let status = unshare(script)
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its own network");
    false
}

/// Runs a tool as root of the namespace.
pub(crate) fn run(words: &str) {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().unwrap());
    assert!(command.args(words).status().unwrap().success());
}

/// Whether packets to and from these ports vanish from now on.
pub(crate) fn vanish(ports: &[u16], vanish: bool) {
    let action = if vanish { "-I" } else { "-D" };
    for port in ports {
        for side in ["--dport", "--sport"] {
            run(&format!(
                "iptables {action} INPUT -p tcp {side} {port} -j DROP"
            ));
        }
    }
}

/// Puts a file of the namespace's own in the place of one of the system's; its text can be changed by writing to the path
/// returned.
pub(crate) fn replace(path: &str, text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    run(&format!("mount --bind {} {path}", file.path().display()));
    file
}
