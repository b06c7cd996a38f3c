//! What is wrong with a configuration: every problem with its place in the text and a mend.

use std::{fmt, rc::Rc};

use annotate_snippets::{
    AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str, renderer::DecorStyle,
};

use crate::config::source::{Source, Span};

/// How many problems are shown; a file with more is not the right file.
const SHOWN_MAX: usize = 50;

/// All problems of one text, in the order of their places.
#[derive(Clone)]
pub struct Diagnostics {
    source: Rc<Source>,
    list: Vec<Diagnostic>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    message: String,
    /// Absent where the whole file is meant (it cannot be read, say).
    place: Option<(Span, String)>,
    also: Vec<(Span, String)>,
    help: String,
}

impl Diagnostics {
    /// No problems in this text so far.
    pub fn new(source: &Rc<Source>) -> Diagnostics {
        Diagnostics { source: source.clone(), list: Vec::new() }
    }

    /// Adds a problem.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds the problems that another look at the same text found.
    pub fn append(&mut self, other: Diagnostics) {
        self.list.extend(other.list);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many problems there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// `value` if nothing is wrong, else the problems.
    pub fn or<T>(mut self, value: T) -> Result<T, Diagnostics> {
        self.list.sort_by_key(|diagnostic| diagnostic.start());
        if self.list.is_empty() { Ok(value) } else { Err(self) }
    }

    /// The messages alone, without places or mends.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|diagnostic| diagnostic.message.as_str())
    }

    /// All problems as a person reads them: the message, the line with a caret, and a line of help; with colours for a terminal.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }
            .decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for diagnostic in self.list.iter().take(SHOWN_MAX) {
            text += &diagnostic.render(&self.source, &renderer);
            text += "\n\n";
        }
        if self.list.len() > SHOWN_MAX {
            text += &format!("and {} more\n\n", self.list.len() - SHOWN_MAX);
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// A problem with the text at `span`; `help` says what to do about it.
    pub fn new(span: Span, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        let place = Some((span, String::new()));
        Diagnostic { message: message.into(), place, also: Vec::new(), help: help.into() }
    }

    /// A problem with the file as a whole.
    pub fn of_file(message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), place: None, also: Vec::new(), help: help.into() }
    }

    /// What to write beside the caret.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        if let Some(place) = &mut self.place {
            place.1 = label.into();
        }
        self
    }

    /// Another place that has to do with it.
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Diagnostic {
        self.also.push((span, label.into()));
        self
    }

    fn start(&self) -> usize {
        self.place.as_ref().map_or(0, |(span, _)| span.start)
    }

    fn render(&self, source: &Source, renderer: &Renderer) -> String {
        let clean = |text: &str| normalize_untrusted_str(text);
        let title = Level::ERROR.primary_title(clean(&self.message));
        let help = Level::HELP.message(clean(&self.help));
        let Some((span, label)) = &self.place else {
            return renderer
                .render(&[title.element(Origin::path(clean(&source.name))).element(help)]);
        };
        let primary = AnnotationKind::Primary.span(within(span, &source.text));
        let primary = if label.is_empty() { primary } else { primary.label(clean(label)) };
        let snippet = Snippet::source(&source.text).path(clean(&source.name)).annotation(primary);
        let also = self.also.iter().map(|(span, label)| {
            AnnotationKind::Context.span(within(span, &source.text)).label(clean(label))
        });
        renderer.render(&[title.element(snippet.annotations(also)).element(help)])
    }
}

/// The span, moved to boundaries of characters inside the text; it stays on one line, so that a table's message does not
/// quote the whole table.
fn within(span: &Span, text: &str) -> Span {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    let line_end = text[start..end].find('\n').map_or(end, |length| start + length);
    start..line_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_file_line_caret_and_mend() {
        let source = Source::new("medusa.toml", "/", "[host]\nplugin_dri = \"x\"\n");
        let mut diagnostics = Diagnostics::new(&source);
        diagnostics.push(Diagnostic::new(
            7..17,
            "unknown key `plugin_dri`",
            "did you mean `plugin_dir`?",
        ));
        let expected = "error: unknown key `plugin_dri`\n --> medusa.toml:2:1\n  |\n2 | plugin_dri = \"x\"\n  | ^^^^^^^^^^\n  |\n  \
                        = help: did you mean `plugin_dir`?\n\n";
        assert_eq!(diagnostics.render(false), expected);
        assert!(diagnostics.render(true).contains("\u{1b}["));
    }

    #[test]
    fn no_more_are_shown_than_anybody_reads() {
        let source = Source::new("medusa.toml", "/", "x");
        let mut diagnostics = Diagnostics::new(&source);
        (0..1000).for_each(|_| diagnostics.push(Diagnostic::new(0..1, "wrong", "mend it")));
        let text = diagnostics.render(false);
        assert_eq!(text.matches("error: wrong").count(), SHOWN_MAX);
        assert!(text.contains("and 950 more"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_read_has_no_line() {
        let source = Source::new("none.toml", "/", "");
        let mut diagnostics = Diagnostics::new(&source);
        diagnostics.push(Diagnostic::of_file("cannot read it", "name another"));
        assert!(diagnostics.render(false).contains("--> none.toml"), "{diagnostics}");
    }

    #[test]
    fn spans_beyond_the_text_are_cut() {
        assert_eq!(within(&(1..99), "äb"), 0..3);
        assert_eq!(within(&(50..99), "ab"), 2..2);
        assert_eq!(within(&(0..5), "a\nb\nc"), 0..1);
    }
}
