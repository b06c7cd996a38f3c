//! `help`: the commands, from their table.

use serde_json::json;

use crate::monitor::{
    command::{Argument, Call, Command, Failure},
    commands::{self, COMMANDS},
    control::PluginCommand,
};

/// `help [COMMAND]…`
pub(super) async fn help(call: Call) -> Result<(), Failure> {
    let name = call.arguments.all("COMMAND").collect::<Vec<_>>().join(" ");
    if !name.is_empty() {
        return explain(&call, &name).await;
    }
    let plugins = call.control.commands();
    if call.json {
        let builtin = COMMANDS.iter().map(as_json);
        let plugins =
            plugins.iter().map(|command| serde_json::to_value(command).expect("it is plain data"));
        return Ok(call.out.json(&builtin.chain(plugins).collect::<Vec<_>>()).await?);
    }
    let mut lines: Vec<(String, &str)> =
        COMMANDS.iter().map(|command| (brief(command), command.summary)).collect();
    lines.extend(plugins.iter().map(|command| (plugin_usage(command), command.summary.as_str())));
    let width = lines.iter().map(|(usage, _)| usage.chars().count()).max().unwrap_or(0);
    let text: String =
        lines.iter().map(|(usage, summary)| format!("{usage:width$}  {summary}\n")).collect();
    Ok(call
        .out
        .text(&(text + "\n`help COMMAND` says more; `--json` anywhere asks for JSON.\n"))
        .await?)
}

/// How a plugin's command is written.
pub(super) fn plugin_usage(command: &PluginCommand) -> String {
    [&command.instance, &command.name, &command.usage]
        .map(String::as_str)
        .join(" ")
        .trim_end()
        .to_owned()
}

async fn explain(call: &Call, name: &str) -> Result<(), Failure> {
    let exact: Vec<&Command> = COMMANDS.iter().filter(|command| command.name == name).collect();
    let within = format!("{name} ");
    let related = COMMANDS.iter().filter(|command| command.name.starts_with(&within));
    let found: Vec<&Command> = exact.into_iter().chain(related).collect();
    let plugins = call.control.commands();
    let full = |command: &PluginCommand| format!("{} {}", command.instance, command.name);
    let plugins: Vec<_> = plugins
        .iter()
        .filter(|command| full(command) == name || command.instance == name)
        .collect();
    if found.is_empty() && plugins.is_empty() {
        let words: Vec<String> = name.split(' ').map(str::to_owned).collect();
        return Err(Failure::Usage(commands::unknown(&words, &*call.control)));
    }
    if call.json {
        let plugins =
            plugins.iter().map(|command| serde_json::to_value(command).expect("it is plain data"));
        let all: Vec<_> = found.into_iter().map(as_json).chain(plugins).collect();
        return Ok(call.out.json(&all).await?);
    }
    let plugins = plugins.iter().map(|command| {
        format!(
            "{}\n    {}; for the role {}\n",
            plugin_usage(command),
            command.summary,
            command.role
        )
    });
    let texts = found.into_iter().map(text).chain(plugins);
    Ok(call.out.text(&texts.collect::<Vec<_>>().join("\n")).await?)
}

/// The name and what has to follow; options are left to `help COMMAND`.
fn brief(command: &Command) -> String {
    let options = command.arguments.iter().any(Argument::is_option);
    let places =
        command.arguments.iter().filter(|argument| !argument.is_option()).map(Argument::usage);
    let words = std::iter::once(command.name.to_owned())
        .chain(places)
        .chain(options.then(|| "…".to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

fn text(command: &Command) -> String {
    let changes = if command.changes { ", and goes on when its client leaves" } else { "" };
    let mut text = format!(
        "{}\n    {}; for the role {}{changes}\n",
        command.usage(),
        command.summary,
        command.role
    );
    let names = |argument: &Argument| {
        argument.usage().trim_matches(['[', ']', '…']).trim_end_matches(']').to_owned()
    };
    let width =
        command.arguments.iter().map(|argument| names(argument).chars().count()).max().unwrap_or(0);
    for argument in command.arguments {
        text += &format!("    {:width$}  {}\n", names(argument), argument.doc);
    }
    text
}

fn as_json(command: &Command) -> serde_json::Value {
    let arguments: Vec<_> = command
        .arguments
        .iter()
        .map(|argument| json!({ "name": argument.name, "usage": argument.usage(), "doc": argument.doc }))
        .collect();
    json!({
        "name": command.name,
        "usage": command.usage(),
        "summary": command.summary,
        "role": command.role,
        "changes": command.changes,
        "arguments": arguments,
    })
}
