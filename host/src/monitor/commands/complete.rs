//! `complete`: what may stand where somebody is typing, for the interactive monitor and for shells.

use crate::{
    config::LEVELS,
    monitor::{
        command::{Argument, Call, Command, Failure, Form},
        commands::{COMMANDS, JSON, connections},
        control::{Control, InstanceStatus},
    },
};

/// Most candidates that are told; who sees that many types another letter.
const CANDIDATES_MAX: usize = 200;

/// `complete [WORD]…`: the last word is the one that is being typed, and empty if it is not begun.
pub(super) async fn complete(call: Call) -> Result<(), Failure> {
    let words: Vec<&str> = call.arguments.all("WORD").collect();
    let (last, head) = words.split_last().map_or(("", &[][..]), |(last, head)| (*last, head));
    let mut found = candidates(head, last, &*call.control).await;
    found.retain(|word| word.starts_with(last));
    found.sort();
    found.dedup();
    found.truncate(CANDIDATES_MAX);
    if call.json {
        return Ok(call.out.json(&found).await?);
    }
    let lines: String = found.iter().map(|word| format!("{word}\n")).collect();
    Ok(call.out.text(&lines).await?)
}

async fn candidates(head: &[&str], last: &str, control: &dyn Control) -> Vec<String> {
    if let ["help", head @ ..] = head {
        return names(head, control);
    }
    let mut found = names(head, control);
    // `log follow` before `log`.
    let command = [2, 1].into_iter().find_map(|length| {
        let name = head.get(..length)?.join(" ");
        COMMANDS.iter().find(|command| command.name == name)
    });
    if let Some(command) = command {
        let behind = &head[command.name.split(' ').count()..];
        found.extend(arguments(command, behind, last, control).await);
    }
    found
}

/// The next word of the commands that begin with these.
fn names(head: &[&str], control: &dyn Control) -> Vec<String> {
    let plugins = control.commands().into_iter();
    let plugins = plugins.map(|command| format!("{} {}", command.instance, command.name));
    let all = COMMANDS.iter().map(|command| command.name.to_owned()).chain(plugins);
    let next = |name: String| {
        let mut words = name.split(' ');
        head.iter()
            .all(|word| words.next() == Some(word))
            .then(|| words.next().map(str::to_owned))?
    };
    all.filter_map(next).collect()
}

/// What may stand behind a command's name and these words.
async fn arguments(
    command: &Command,
    behind: &[&str],
    last: &str,
    control: &dyn Control,
) -> Vec<String> {
    let option = |word: &str| {
        let name = word.strip_prefix("--")?;
        command.arguments.iter().find(|argument| argument.is_option() && argument.name == name)
    };
    let takes_value = |argument: &&Argument| argument.form != Form::Flag;
    if let Some(argument) = behind.last().and_then(|word| option(word)).filter(takes_value) {
        return values(command, argument, control).await;
    }
    if let Some((name, _)) = last.split_once('=') {
        let Some(argument) = option(name).filter(takes_value) else { return Vec::new() };
        let values = values(command, argument, control).await;
        return values.into_iter().map(|value| format!("{name}={value}")).collect();
    }
    if last.starts_with('-') {
        let is_given = |argument: &Argument| {
            behind.iter().any(|word| option(word).is_some_and(|it| it.name == argument.name))
        };
        let options = command.arguments.iter().filter(|argument| {
            argument.is_option()
                && (matches!(argument.form, Form::Values(_)) || !is_given(argument))
        });
        let options = options.map(|argument| format!("--{}", argument.name));
        return options.chain([JSON.to_owned()]).collect();
    }
    let mut place = 0;
    let mut words = behind.iter();
    while let Some(word) = words.next() {
        match option(word) {
            Some(argument) if takes_value(&argument) => drop(words.next()),
            _ if word.starts_with("--") => {}
            _ => place += 1,
        }
    }
    let mut places = command.arguments.iter().filter(|argument| !argument.is_option());
    let rest = places.clone().find(|argument| argument.form == Form::Rest);
    match places.nth(place).or(rest) {
        Some(argument) => values(command, argument, control).await,
        None => Vec::new(),
    }
}

/// What an argument may be, as far as the server can tell.
async fn values(command: &Command, argument: &Argument, control: &dyn Control) -> Vec<String> {
    let what = match argument.form {
        Form::Value(what) | Form::Values(what) => what,
        _ => argument.name,
    };
    let running = |of: fn(&InstanceStatus) -> bool| {
        let instances = control.instances().into_iter();
        instances.filter(of).map(|status| status.name).collect::<Vec<_>>()
    };
    let configured = || {
        let config = control.config();
        config.instances.iter().map(|instance| instance.name.clone()).collect::<Vec<_>>()
    };
    let routes = || control.routes().into_iter();
    let constant = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match (command.name, what) {
        ("load", "NAME") => {
            let there = running(|status| status.state != "failed");
            configured().into_iter().filter(|name| !there.contains(name)).collect()
        }
        ("load", "INSTANCE") => running(|status| status.attach.is_none()),
        ("config show", "NAME") => configured(),
        (_, "NAME" | "INSTANCE") => running(|_| true),
        (_, "LIBRARY") => control.libraries().await,
        ("kill", "ID") => first(control).iter().map(|it| it.id.to_string()).collect(),
        ("routes move", "ID" | "OTHER") => routes().map(|route| route.id.to_string()).collect(),
        ("routes move", "PLACE") => constant(&["first", "last", "before", "after", "back"]),
        ("load", "PATH") => routes().map(|route| route.path).collect(),
        ("load", "HOST") => routes().filter_map(|route| route.host).collect(),
        ("connections", "ADDRESS") => {
            control.listeners().into_iter().map(|listener| listener.address).collect()
        }
        ("connections", "PEER") => {
            let address = |peer: &str| {
                peer.rsplit_once(':').map(|(ip, _)| ip.trim_matches(['[', ']']).to_owned())
            };
            first(control).iter().filter_map(|it| address(&it.peer)).collect()
        }
        ("connections", "STATE") => constant(connections::STATES),
        ("connections", "KEY") => constant(connections::KEYS),
        (_, "LEVEL") => constant(LEVELS),
        _ => Vec::new(),
    }
}

/// The connections that one turn of the loop has time for.
fn first(control: &dyn Control) -> Vec<crate::monitor::control::ConnectionStatus> {
    control.connections(0).0
}
