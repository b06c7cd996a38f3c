//! Documents: their links lead somewhere, and the ABI's document speaks of the ABI that is there.

use std::path::{Component, Path, PathBuf};

use super::{Problem, TextFile};

const ABI_LAYOUT: &str = "plugin-api/abi/layout.txt";
const ABI_DOCUMENT: &str = "docs/abi.md";

/// Checks that every relative link leads to a file or folder of the project.
pub(super) fn check_links(root: &Path, file: &TextFile, problems: &mut Vec<Problem>) {
    let folder = file.path.parent().unwrap_or(Path::new(""));
    for (line, target) in links(&file.text) {
        let path = target.split('#').next().unwrap_or_default();
        if path.is_empty() || path.starts_with("//") || has_scheme(target) {
            continue;
        }
        let sentence = match resolve(folder, path) {
            None => format!("the link to `{target}` leads out of the project"),
            Some(resolved) if !root.join(&resolved).exists() => {
                format!("the link to `{target}` leads nowhere")
            }
            Some(_) => continue,
        };
        problems.push(Problem { file: file.path.clone(), line, sentence });
    }
}

/// Checks that the ABI's document names the fingerprint of the layout that a test pinned.
pub(super) fn check_abi(root: &Path, files: &[TextFile], problems: &mut Vec<Problem>) {
    let Ok(layout) = std::fs::read(root.join(ABI_LAYOUT)) else { return };
    let hash = fingerprint(&layout);
    let document = files.iter().find(|file| file.path == Path::new(ABI_DOCUMENT));
    if !document.is_some_and(|document| document.text.contains(&hash)) {
        let sentence = format!(
            "the ABI was changed without touching {ABI_DOCUMENT}: describe the change there, raise the version, and \
             write the layout's new fingerprint {hash} where the old one stands"
        );
        problems.push(Problem { file: ABI_LAYOUT.into(), line: 1, sentence });
    }
}

/// FNV-1a over 64 bits, as 16 hexadecimal digits: enough to notice a change, and no dependency.
fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Targets of `[text](target)` and `[name]: target` outside of code, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        let inline = line.match_indices("](").filter_map(|(at, _)| {
            let is_code = line[..at].matches('`').count() % 2 == 1;
            let target = &line[at + 2..];
            (!is_code).then(|| target.split([')', ' ']).next().unwrap_or_default())
        });
        found.extend(inline.map(|target| (number + 1, target)));
        if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push((number + 1, target.trim()));
        }
    }
    found
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|it| it.is_ascii_alphanumeric())
    })
}

/// The path from the workspace, or nothing if it climbs out of it.
fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::CurDir => {}
            Component::ParentDir if resolved.pop() => {}
            _ => return None,
        }
    }
    Some(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "see [a](b.md#c) and `[x](y)`\n```\n[d](e)\n```\n[f]: g.md\n";
        assert_eq!(links(text), [(1, "b.md#c"), (5, "g.md")]);
    }

    #[test]
    fn a_link_must_lead_somewhere_inside() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[here](main.rs) [up](../Cargo.toml) [web](https://example.org/x) [part](#part)\n[gone](no.rs) [out](../../x)";
        let mut problems = Vec::new();
        check_links(
            root,
            &TextFile { path: "src/README.md".into(), text: text.into() },
            &mut problems,
        );
        let found: Vec<_> = problems.iter().map(|it| (it.line, it.sentence.as_str())).collect();
        assert_eq!(
            found,
            [
                (2, "the link to `no.rs` leads nowhere"),
                (2, "the link to `../../x` leads out of the project")
            ]
        );
    }

    #[test]
    fn the_fingerprint_is_fnv() {
        assert_eq!(fingerprint(b""), "cbf29ce484222325");
        assert_eq!(fingerprint(b"a"), "af63dc4c8601ec8c");
    }
}
