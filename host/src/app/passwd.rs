//! `medusa passwd`: a password in, its argon2id hash out, as configuration files hold it.

use std::io::{self, BufRead, IsTerminal, Write};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, SaltString, rand_core::OsRng},
};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The longest password that is read.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Reads a line from standard input, without echo if that is a terminal, and returns its hash as a line.
pub(super) fn read_and_hash() -> Result<String, String> {
    let password = if io::stdin().is_terminal() { ask()? } else { read(&mut io::stdin().lock())? };
    Ok(hash(&password)? + "\n")
}

/// Twice, as nobody sees what they type.
fn ask() -> Result<String, String> {
    let silence = Silence::begin()
        .map_err(|error| format!("cannot switch off the terminal's echo: {error}"))?;
    let line = |prompt: &str| {
        eprint!("{prompt}: ");
        // The prompt is a courtesy; the password can be read without it.
        let _ = io::stderr().flush();
        let line = read(&mut io::stdin().lock());
        eprintln!();
        line
    };
    let (password, again) = (line("password")?, line("again")?);
    drop(silence);
    if password == again {
        Ok(password)
    } else {
        Err("the two passwords differ; nothing was hashed".to_owned())
    }
}

fn read(input: &mut impl BufRead) -> Result<String, String> {
    let mut line = Vec::new();
    let mut limited = io::Read::take(input, PASSWORD_BYTES_MAX as u64 + 2);
    limited
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("cannot read the password: {error}"))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err("the password is empty; give it on standard input".to_owned());
    }
    if line.len() > PASSWORD_BYTES_MAX {
        return Err(format!(
            "the password is longer than {PASSWORD_BYTES_MAX} bytes; choose a shorter one"
        ));
    }
    String::from_utf8(line.to_vec()).map_err(|_| "the password is not UTF-8".to_owned())
}

fn hash(password: &str) -> Result<String, String> {
    let salt = SaltString::generate(&mut OsRng);
    // The parameters are those that OWASP and RFC 9106 agree on for a server: 19 MiB, two passes, one lane.
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| format!("cannot hash the password: {error}"))
}

/// The terminal without echo, until this is dropped.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> io::Result<Silence> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is no other way to bring the echo back; `stty sane` does.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check =
            |input: &[u8], expected: Result<&str, &str>| match (read(&mut &input[..]), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{input:?}: {found:?}"),
            };
        check(b"secret\n", Ok("secret"));
        check(b"secret\r\nmore", Ok("secret"));
        check(b" two words ", Ok(" two words "));
        check(b"", Err("empty"));
        check(b"\n", Err("empty"));
        check(&[b'x'; 1025], Err("longer"));
        check(b"\xff\n", Err("UTF-8"));
    }

    #[test]
    fn a_hash_fits_its_password_and_no_other() {
        use argon2::password_hash::{PasswordHash, PasswordVerifier};
        let hash = hash("secret").unwrap();
        let parsed = PasswordHash::new(&hash).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        assert!(Argon2::default().verify_password(b"secret", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"Secret", &parsed).is_err());
    }
}
