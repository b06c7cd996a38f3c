//! The commands against a host that is all made up.

use super::*;

#[test]
fn names_are_unique_and_every_argument_is_explained() {
    let mut names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COMMANDS.len());
    for command in COMMANDS {
        assert!(
            !command.summary.is_empty()
                && command.arguments.iter().all(|argument| !argument.doc.is_empty())
        );
        assert!(
            !command.changes || command.role > Role::Viewer,
            "{} changes something",
            command.name
        );
    }
}
