//! The systemd units are valid and confine the service.

use std::process::Command;

use servers::process::program;

/// A unit, and the name of the file in which systemd reads it.
struct Unit {
    name: &'static str,
    text: &'static str,
}

const UNITS: [Unit; 2] = [
    Unit { name: "heartbeatd.service", text: include_str!("../../deploy/heartbeatd.service") },
    // An instance of the template: systemd looks for it in the file without the name.
    Unit {
        name: "heartbeatd@hall-a.service",
        text: include_str!("../../deploy/heartbeatd@.service"),
    },
];

/// The most exposure that `systemd-analyze security` may find, times ten. It is 1.2 with
/// systemd 252, and a little more with other versions, whose weights differ.
const EXPOSURE: u32 = 15;

/// Runs `systemd-analyze` on a unit. Returns true if it succeeds, and its output.
fn analyze(arguments: &[&str], name: &str, unit: &str) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, unit).expect("a file");
    let out = Command::new(program("systemd-analyze", "systemd", &[]))
        .args(arguments)
        .arg(&path)
        .output()
        .expect("it starts");
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The settings of a unit, without its comments.
fn settings(unit: &str) -> Vec<&str> {
    unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_units_expose_next_to_nothing() {
    let threshold = format!("--threshold={EXPOSURE}");
    let security = ["security", "--offline=true", "--no-pager", &threshold];
    for Unit { name, text } in UNITS {
        let (confined, report) = analyze(&security, name, text);
        assert!(confined, "{name}: {report}");
        // Shows that the threshold does not let everything pass.
        let (confined, report) = analyze(&security, name, &text.replace("SystemCallFilter", "#"));
        assert!(!confined, "{name}: {report}");
    }
}

#[test]
fn the_units_are_valid() {
    for Unit { name, text } in UNITS {
        // The program is not installed on the machine that runs the tests.
        let here = text.replace("/usr/local/bin/heartbeatd", env!("CARGO_BIN_EXE_heartbeatd"));
        let (valid, said) = analyze(&["verify"], name, &here);
        assert!(valid && said.is_empty(), "{name}: {said}");
    }
}

/// All but the name, the folder and the environment, so that what one unit gains the other has.
#[test]
fn the_template_differs_from_the_unit_only_in_what_each_instance_has_for_itself() {
    let [one, template] = UNITS.map(|unit| settings(unit.text));
    let of_an_instance = |line: &&str| line.contains("%i");
    let (own, shared): (Vec<_>, Vec<_>) = template.into_iter().partition(of_an_instance);
    assert_eq!(
        own,
        [
            "Description=heartbeatd %i watches a fleet of MQTT devices",
            "Environment=HEARTBEATD_MQTT__CLIENT_ID=%i",
            "EnvironmentFile=-/etc/heartbeatd/%i.env",
            "WorkingDirectory=/var/lib/heartbeatd-%i",
            "StateDirectory=heartbeatd-%i",
        ]
    );
    let common = |line: &&str| {
        !["Description=", "WorkingDirectory=", "StateDirectory="]
            .iter()
            .any(|key| line.starts_with(key))
    };
    assert_eq!(shared, one.into_iter().filter(common).collect::<Vec<_>>());
}
