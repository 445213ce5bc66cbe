//! Kernel modules of a kernel package, in the order in which they can be loaded. The package has no
//! list of what needs what (depmod(8) makes it on installation); each module itself says it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// What a module says about the modules it needs: `depends=a,b` in its section `.modinfo`.
const NEEDS: &[u8] = b"\0depends=";

/// The modules of a package.
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Modules {
    /// Those below `lib/modules/VERSION` of an unpacked package.
    pub(crate) fn find(package: &Path) -> anyhow::Result<Self> {
        let folder = package.join("lib/modules");
        let version = fs::read_dir(&folder)
            .with_context(|| format!("{}: no kernel's modules", folder.display()))?
            .next()
            .with_context(|| format!("{} is empty", folder.display()))??
            .path();
        let list = fs::read_to_string(version.join("modules.builtin"))?;
        let mut files = BTreeMap::new();
        gather(&version, &mut files)?;
        Ok(Self {
            files,
            built_in: list.lines().map(|line| name_of(Path::new(line))).collect(),
        })
    }

    /// The wanted ones and all that they need, each after what it needs.
    pub(crate) fn in_order(&self, wanted: &[String]) -> anyhow::Result<Vec<&Path>> {
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit<'a>(
        &'a self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<&'a Path>,
    ) -> anyhow::Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("this kernel has no module {name}");
        };
        let content = fs::read(file)?;
        let at = content
            .windows(NEEDS.len())
            .position(|window| window == NEEDS);
        let after = at.map_or(&[][..], |at| &content[at + NEEDS.len()..]);
        let said = after.split(|byte| *byte == 0).next().unwrap_or_default();
        for needed in String::from_utf8_lossy(said)
            .split(',')
            .filter(|s| !s.is_empty())
        {
            self.visit(&needed.replace('-', "_"), seen, order)?;
        }
        order.push(file);
        Ok(())
    }
}

fn gather(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            gather(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            files.insert(name_of(&path), path);
        }
    }
    Ok(())
}

/// A module's name: a dash in its file's name stands for an underscore.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.replace('-', "_")
}
