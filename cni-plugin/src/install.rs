//! `install` and `uninstall`: the binary, links and a network's configuration, each put in place
//! by a rename, so that whoever reads or executes sees the old or the new and never half of one.

mod network;
mod place;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cni_types::{Code, Error};

use crate::command_line::Given;
use crate::role::Role;
use place::{failed, put, remove, temporary};

/// The binary's name, where it is put and where links lead.
const PROGRAM: &str = "causeway-cni";

/// The network's file. Runtimes take the first in the order of names.
const CONFLIST: &str = "10-causeway.conflist";

pub(crate) fn refused(message: String) -> Error {
    Error::new(Code::INVALID_CONFIG, message)
}

/// Puts everything in place, and says what.
///
/// # Errors
/// What is missing, wrong or in the way, before anything is changed; code 5 when the disk fails.
pub(crate) fn install(given: &Given) -> Result<String, Error> {
    let folder = given.needed_path("--bin-dir")?;
    let network = network::file(given)?;
    let links = if given.is_on("--links") {
        wanted_links(&folder, given.is_on("--force"))?
    } else {
        Vec::new()
    };
    let program = folder.join(PROGRAM);
    if fs::symlink_metadata(&program).is_ok_and(|meta| !meta.is_file()) {
        let program = program.display();
        return Err(refused(format!(
            "{program} is in the way: it is no plain file"
        )));
    }

    let mut done = Vec::new();
    fs::create_dir_all(&folder).map_err(failed("make the folder", &folder))?;
    // The program itself, even if its file has been replaced since it was started.
    let own = Path::new("/proc/self/exe");
    let mut source = File::open(own).map_err(failed("read", own))?;
    put(&program, 0o755, &mut source)?;
    done.push(program);
    for link in links {
        let new = temporary(&link);
        remove(&new)?;
        symlink(PROGRAM, &new).map_err(failed("make", &new))?;
        fs::rename(&new, &link).map_err(failed("make", &link))?;
        done.push(link);
    }
    // Last: a runtime that sees the network finds its plugin.
    if let Some((path, text)) = network {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        put(&path, 0o644, &mut text.as_bytes())?;
        done.push(path);
    }
    Ok(said("installed", &done))
}

/// Takes away what [`install`] put there, and says what that was. What is not there is no error.
///
/// # Errors
/// As [`install`].
pub(crate) fn uninstall(given: &Given) -> Result<String, Error> {
    let folder = given.needed_path("--bin-dir")?;
    let mut done = Vec::new();
    // The network first: a runtime must not look for a plugin that is gone.
    if let Some(folder) = given.path("--conf-dir") {
        let path = folder.join(CONFLIST);
        if network::is_ours(&path)? && remove(&path)? {
            done.push(path);
        }
    }
    for link in role_names().map(|name| folder.join(name)) {
        if leads_to_us(&link) && remove(&link)? {
            done.push(link);
        }
    }
    let program = folder.join(PROGRAM);
    if fs::symlink_metadata(&program).is_ok_and(|meta| meta.is_file()) && remove(&program)? {
        done.push(program);
    }
    Ok(said("removed", &done))
}

/// The names of other plugins that this one stands in for.
fn role_names() -> impl Iterator<Item = &'static str> {
    let names = Role::NAMES.iter().map(|(name, _)| *name);
    names.filter(|name| *name != PROGRAM)
}

/// The links that are not there yet; none may take the place of something else.
fn wanted_links(folder: &Path, force: bool) -> Result<Vec<PathBuf>, Error> {
    let mut wanted = Vec::new();
    let mut in_the_way = Vec::new();
    for link in role_names().map(|name| folder.join(name)) {
        match fs::symlink_metadata(&link) {
            Err(error) if error.kind() == ErrorKind::NotFound => wanted.push(link),
            Err(error) => return Err(failed("inspect", &link)(error)),
            Ok(_) if leads_to_us(&link) => {}
            Ok(meta) if force && !meta.is_dir() => wanted.push(link),
            Ok(_) => in_the_way.push(link.display().to_string()),
        }
    }
    if in_the_way.is_empty() {
        return Ok(wanted);
    }
    Err(refused(format!(
        "in the way of links: {}; --force replaces files",
        in_the_way.join(", ")
    )))
}

fn leads_to_us(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|to| to == Path::new(PROGRAM))
}

fn said(what: &str, paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| format!("{what} {}\n", path.display()))
        .collect()
}
