//! The systemd unit is valid and confines the service.

use std::process::Command;

use servers::process::program;

const UNIT: &str = include_str!("../../deploy/heartbeatd.service");

/// The most exposure that `systemd-analyze security` may find, times ten. It is 1.2 with
/// systemd 252, and a little more with other versions, whose weights differ.
const EXPOSURE: u32 = 15;

/// Runs `systemd-analyze` on a unit. Returns true if it succeeds, and its output.
fn analyze(arguments: &[&str], unit: &str) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("heartbeatd.service");
    std::fs::write(&path, unit).expect("a file");
    let out = Command::new(program("systemd-analyze", "systemd", &[]))
        .args(arguments)
        .arg(&path)
        .output()
        .expect("it starts");
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_unit_exposes_next_to_nothing() {
    let threshold = format!("--threshold={EXPOSURE}");
    let security = ["security", "--offline=true", "--no-pager", &threshold];
    let (confined, report) = analyze(&security, UNIT);
    assert!(confined, "{report}");
    // Shows that the threshold does not let everything pass.
    let (confined, report) = analyze(&security, &UNIT.replace("SystemCallFilter", "#"));
    assert!(!confined, "{report}");
}

#[test]
fn the_unit_is_valid() {
    // The program is not installed on the machine that runs the tests.
    let here = UNIT.replace("/usr/local/bin/heartbeatd", env!("CARGO_BIN_EXE_heartbeatd"));
    let (valid, said) = analyze(&["verify"], &here);
    assert!(valid && said.is_empty(), "{said}");
}
