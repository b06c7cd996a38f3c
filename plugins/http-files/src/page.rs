//! The pages that this plugin makes itself: listings of folders, and short words about what is wrong.

use std::fmt::Write as _;

use medusa_plugin_api::Escaped;

use crate::{conditional, path};

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) is_directory: bool,
    /// Bytes; nothing for directories.
    pub(crate) size: u64,
    pub(crate) modified_ns: i64,
}

/// What is shown of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// There are more.
    pub(crate) is_cut: bool,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8883;--dim:#6b6b6b}\
@media(prefers-color-scheme:dark){:root{--dim:#a0a0a0}}\
*{box-sizing:border-box}\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1.5rem 1rem;max-width:60rem}\
h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere;margin:0 0 1rem}\
ul{list-style:none;margin:0;padding:0;border-top:1px solid var(--line)}\
li{display:flex;flex-wrap:wrap;gap:0 1rem;padding:.4rem 0;border-bottom:1px solid var(--line)}\
a{flex:1 1 14rem;overflow-wrap:anywhere;min-width:0;text-decoration:none}\
a:hover,a:focus-visible{text-decoration:underline}\
span{color:var(--dim);font-variant-numeric:tabular-nums;font-size:.875rem;white-space:nowrap}\
span:nth-of-type(1){min-width:5rem;text-align:right}\
p{color:var(--dim)}";

/// The page that lists what was found of the folder which clients see at `path` (decoded). `has_parent`: there is a folder
/// above it that can be gone to.
pub(crate) fn listing(path: &str, found: Listing, has_parent: bool) -> String {
    let Listing { mut entries, is_cut } = found;
    entries.sort_by(|a, b| b.is_directory.cmp(&a.is_directory).then_with(|| a.name.cmp(&b.name)));
    let mut page = String::with_capacity(1500 + 160 * entries.len());
    let title = Escaped(path);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<ul>\n"
    );
    if has_parent {
        page.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for entry in &entries {
        item(&mut page, entry);
    }
    page.push_str("</ul>\n");
    if entries.is_empty() {
        page.push_str("<p>This folder is empty.</p>\n");
    }
    if is_cut {
        let count = entries.len();
        let _ =
            writeln!(page, "<p>This folder has more entries than the {count} that are shown.</p>");
    }
    page.push_str("</body></html>\n");
    page
}

fn item(page: &mut String, entry: &Entry) {
    let slash = if entry.is_directory { "/" } else { "" };
    let href = path::encode(&entry.name);
    let name = String::from_utf8_lossy(&entry.name);
    // `./` keeps a name with a colon from being read as a scheme.
    let _ = write!(page, "<li><a href=\"./{href}{slash}\">{}{slash}</a>", Escaped(&name));
    let size = if entry.is_directory { String::new() } else { human_size(entry.size) };
    let _ = writeln!(page, "<span>{size}</span><span>{}</span></li>", date(entry.modified_ns));
}

/// A short text for a response that has no other body.
pub(crate) fn notice(status: u16, reason: &str, sentence: &str) -> String {
    format!("{status} {reason}\n\n{sentence}\n")
}

/// `1.5 KiB`.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10) as usize;
    let value = bytes as f64 / (1u64 << (10 * exponent)) as f64;
    format!("{value:.1} {}", UNITS[exponent - 1])
}

/// `06 Nov 1994 08:49`, in UTC.
fn date(modified_ns: i64) -> String {
    let text = httpdate::fmt_http_date(conditional::whole_seconds(modified_ns));
    text.get(5..22).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, is_directory: bool, size: u64) -> Entry {
        Entry { name: name.into(), is_directory, size, modified_ns: 784_111_777_000_000_000 }
    }

    #[test]
    fn names_are_escaped_and_sorted() {
        let hostile = "<script>alert('x')</script>&\".txt";
        let entries = vec![
            entry("b", false, 1536),
            entry(hostile, false, 0),
            entry("z", true, 0),
            entry("a:b", false, 3),
        ];
        let page = listing("/a & b/<i>", Listing { entries, is_cut: true }, true);
        assert!(page.contains("has more entries than the 4 that are shown"));
        assert!(page.contains("<title>/a &amp; b/&lt;i&gt;</title>"));
        assert!(!page.contains("<script") && !page.contains("<i>"));
        assert!(page.contains("href=\"./%3Cscript%3Ealert(%27x%27)%3C%2Fscript%3E%26%22.txt\""));
        assert!(page.contains("<a href=\"./a:b\">a:b</a>"));
        assert!(
            page.contains("<a href=\"./z/\">z/</a><span></span><span>06 Nov 1994 08:49</span>")
        );
        assert!(page.contains("<span>1.5 KiB</span>"));
        let at = |text: &str| page.find(text).unwrap();
        assert!(
            at("../") < at("./z/")
                && at("./z/") < at("./%3C")
                && at("./%3C") < at("./a:b")
                && at("./a:b") < at("./b\"")
        );
    }

    #[test]
    fn an_empty_folder_says_so() {
        let page = listing("/", Listing::default(), false);
        assert!(page.contains("empty") && !page.contains("<li>") && !page.contains("more"));
    }

    #[test]
    fn sizes_are_human() {
        let check = |bytes, expected: &str| assert_eq!(human_size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_048_576, "1.0 MiB");
        check(u64::MAX, "16.0 EiB");
    }
}
