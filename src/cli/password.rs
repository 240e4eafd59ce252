//! A new password, from stdin: one line, or on a terminal typed twice without being shown.
//! Never an argument, which other users of the machine could see.

use std::io::{self, BufRead, IsTerminal, Write};

use actix_rt::signal::unix::{SignalKind, signal};
use futures::future::{Either, select};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

/// The maximum size of a password, in bytes. It fits into the CONNECT of a small device.
const MAX_BYTES: usize = 1024;

/// The reason why there is no password.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPassword {
    #[error("a password is expected on stdin, as one line; there is none")]
    Empty,
    #[error("a password has at most {MAX_BYTES} bytes; this one has more")]
    TooLong,
    #[error("a password with a U+0000 cannot be sent by many clients: choose another one")]
    Nul,
    #[error("the two passwords differ; nothing was changed")]
    Differ,
    #[error("interrupted; nothing was changed")]
    Interrupted,
    #[error("the password cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads a password.
pub(super) async fn read() -> Result<Vec<u8>, NoPassword> {
    if !io::stdin().is_terminal() {
        return line(io::stdin().lock());
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Restored also if a signal ends the wait: the shell would go on without an echo.
    let _silent = Silent::new()?;
    let interrupted = select(Box::pin(interrupt.recv()), Box::pin(terminate.recv()));
    match select(typed_twice(), interrupted).await {
        Either::Left((typed, _)) => typed.unwrap_or(Err(NoPassword::Interrupted)),
        Either::Right(_) => {
            writeln!(io::stderr())?;
            Err(NoPassword::Interrupted)
        }
    }
}

/// Prompts on a thread of its own, which ends with the process if nothing is typed.
fn typed_twice() -> oneshot::Receiver<Result<Vec<u8>, NoPassword>> {
    let (typed, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let ask = |prompt: &str| {
            write!(io::stderr(), "{prompt}: ")?;
            line(io::stdin().lock())
        };
        let both = ask("Password").and_then(|first| Ok((first, ask("Again")?)));
        let same = both.and_then(
            |(first, second)| {
                if first == second { Ok(first) } else { Err(NoPassword::Differ) }
            },
        );
        // Nobody waits any more after a signal.
        let _ = typed.send(same);
    });
    receiver
}

/// Reads one line without its end.
fn line(input: impl BufRead) -> Result<Vec<u8>, NoPassword> {
    let mut line = Vec::new();
    // With room for the end of the line, and one byte too many.
    input.take(MAX_BYTES as u64 + 3).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    match &line[..] {
        [] => Err(NoPassword::Empty),
        line if line.len() > MAX_BYTES => Err(NoPassword::TooLong),
        line if line.contains(&0) => Err(NoPassword::Nul),
        _ => Ok(line),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Termios);

impl Silent {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // The end of the line is shown.
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // If the terminal is gone, nothing is left to be restored.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        let longest = [b'x'; MAX_BYTES];
        for (input, expected) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\n", b"secret"),
            (b"secret\r\nmore\n", b"secret"),
            (b" a b \n", b" a b "),
            (b"\xff\n", b"\xff"),
            (&longest, &longest),
            (&[&longest[..], b"\r\n"].concat(), &longest),
        ] {
            assert_eq!(line(input).expect("it is a password"), expected);
        }
        let error = |input: &[u8]| line(input).expect_err("it is none").to_string();
        assert!(error(b"").contains("as one line"));
        assert!(error(b"\nsecret\n").contains("as one line"));
        assert!(error(&[b'x'; MAX_BYTES + 1]).contains("at most 1024 bytes"));
        assert!(error(&[b'x'; 10 * MAX_BYTES]).contains("at most 1024 bytes"));
        assert!(error(b"a\0b\n").contains("U+0000"));
    }
}
