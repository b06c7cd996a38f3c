//! Debian packages that a command needs, installed if that is possible; what they start by themselves stays off.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Result;

/// Where Debian's packages ask whether they may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of the packages whose program, of the same name, is not there. Says what stays missing, and why.
pub(crate) fn install(names: &[&str]) {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return;
    }
    if let Err(reason) = install_all(&missing) {
        eprintln!("MISSING: {}; {reason}", missing.join(", "));
    }
}

fn install_all(names: &[&str]) -> Result<()> {
    if !is_installed("apt-get") {
        return Err(format!("there is no apt-get to install {} with", names.join(", ")).into());
    }
    apt_get(&["update"])?;
    let policy = Policy::deny()?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(names);
    apt_get(&install)?;
    drop(policy);
    for name in names.iter().filter(|name| Path::new("/etc/init.d").join(name).exists()) {
        // It was installed for its program: it does not start with the machine either. Where nothing starts services,
        // there is nothing to switch off.
        let _ = Command::new("update-rc.d")
            .args([name, "disable"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    Ok(())
}

/// Forbids packages to start services, until it is dropped. Somebody else's policy stays as it is.
struct Policy {
    is_ours: bool,
}

impl Policy {
    fn deny() -> Result<Policy> {
        if Path::new(POLICY).exists() {
            return Ok(Policy { is_ours: false });
        }
        let policy = Policy { is_ours: true };
        // 101: the action is forbidden.
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .map_err(|error| {
                format!("only root can install them ({POLICY}: {error}): `apt-get install`")
            })?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    println!("$ apt-get {}", arguments.join(" "));
    let output = Command::new("apt-get")
        .args(["--quiet", "--quiet", "--option", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("apt-get cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("it says nothing");
    Err(format!("`apt-get {}` failed: {last}", arguments.join(" ")).into())
}

/// Whether a program is there, also where only root looks.
fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.any(|folder| folder.join(program).is_file())
}
