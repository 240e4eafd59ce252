//! Tells systemd how the service is: the line below `Status:` in `systemctl status`.
//!
//! The protocol is a datagram to a socket that the environment names, see sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable by which systemd names its socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The socket of the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    last: String,
}

impl Notifier {
    /// The notifier of a service that systemd has started with `NotifyAccess=`; `None` of any
    /// other, or if the socket cannot be used.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os(SOCKET)?;
        let opened = Self::to(&name);
        if let Err(error) = &opened {
            log::warn!(target: "heartbeatd", "{SOCKET} cannot be used: {error}");
        }
        opened.ok()
    }

    fn to(name: &OsStr) -> io::Result<Self> {
        let manager = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the service.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager, last: String::new() })
    }

    /// Tells the status, unless it is the same as the last one.
    pub fn status(&mut self, status: String) {
        if status == self.last {
            return;
        }
        let line = format!("STATUS={}", status.replace('\n', " "));
        match self.socket.send_to_addr(line.as_bytes(), &self.manager) {
            Ok(_) => self.last = status,
            // The next one will be newer anyway.
            Err(error) => log::debug!(target: "heartbeatd", "cannot tell systemd: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_each_status_once_whether_its_socket_is_a_file_or_has_only_a_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let name = format!("heartbeatd-test-{}", std::process::id());
        let abstracted = SocketAddr::from_abstract_name(&name).expect("a name");
        for (manager, address) in [
            (UnixDatagram::bind(&path).expect("a socket"), path.as_os_str().to_owned()),
            (UnixDatagram::bind_addr(&abstracted).expect("a socket"), format!("@{name}").into()),
        ] {
            manager.set_nonblocking(true).expect("it is open");
            let mut notifier = Notifier::to(&address).expect("it is there");
            for status in ["Listening.", "Listening.", "Not proven\nsince"] {
                notifier.status(status.to_owned());
            }
            let mut buffer = [0; 100];
            let mut told = || {
                let length = manager.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            let told = [told(), told(), told()];
            let expected = ["STATUS=Listening.", "STATUS=Not proven since"];
            assert_eq!(told, [Some(expected[0].into()), Some(expected[1].into()), None]);
            drop(manager);
            // Nobody is there any more.
            notifier.status("Listening.".to_owned());
        }
    }
}
