//! The table of commands, and finding one by the words that were typed.

mod complete;
mod configuration;
mod connections;
mod help;
mod lifecycle;
mod log;
mod look;
mod routes;
mod stats;

use crate::{
    config::words,
    monitor::{
        command::{Argument, Call, Command, Failure, Form, Role},
        control::{Control, Later, PluginCall, PluginCommand},
    },
};

/// A command and what was typed behind its name.
pub enum Found {
    /// One of the table.
    Builtin(&'static Command, crate::monitor::command::Arguments),
    /// One of a plugin's.
    Plugin(PluginCommand, Vec<String>),
}

/// All commands of the host, in the order of help.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        arguments: &[argument(Form::Rest, "COMMAND", "the command to explain")],
        summary: "what can be typed here",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(help::help(call)),
    },
    Command {
        name: "status",
        arguments: &[],
        summary: "the host as a whole",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(look::status(call)),
    },
    Command {
        name: "plugins",
        arguments: &[],
        summary: "the instances, and what each has in use",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(look::plugins(call)),
    },
    Command {
        name: "load",
        arguments: &[
            argument(Form::Required, "NAME", "an instance of the configuration, or a new name"),
            argument(
                Form::Value("LIBRARY"),
                "library",
                "for a new name: a library in plugin_dir, or a path with a slash",
            ),
            argument(
                Form::Values("ADDRESS"),
                "listen",
                "where it listens: 127.0.0.1:7007, or unix:PATH",
            ),
            argument(Form::Value("INSTANCE"), "attach", "the HTTP instance that it extends"),
            argument(Form::Value("HOST"), "host", "the host name that it answers for"),
            argument(Form::Value("PATH"), "path", "the path that it is mounted at"),
            argument(Form::Value("NUMBER"), "order", "its place among equals; smaller comes first"),
            argument(
                Form::Values("KEY=VALUE"),
                "set",
                "a key of its configuration; a value is TOML, or text",
            ),
        ],
        summary: "load a plugin and start it",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::load(call)),
    },
    Command {
        name: "unload",
        arguments: &[
            argument(Form::Required, "NAME", "the instance"),
            argument(
                Form::Flag,
                "now",
                "cut what is in flight instead of waiting for drain_ms_max",
            ),
        ],
        summary: "stop an instance and unmap its library",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::unload(call)),
    },
    Command {
        name: "upgrade",
        arguments: &[
            argument(Form::Required, "NAME", "the instance"),
            argument(
                Form::Value("LIBRARY"),
                "library",
                "the new library, by name or path; without it, its own as it is on disk",
            ),
        ],
        summary: "replace an instance's code while it serves",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::upgrade(call)),
    },
    Command {
        name: "upgrade-host",
        arguments: &[argument(
            Form::Value("FILE"),
            "binary",
            "the new program; without it, what is now at the path that the host was started from",
        )],
        summary: "replace the host's own program while it serves",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::upgrade_host(call)),
    },
    Command {
        name: "reload",
        arguments: &[argument(Form::Required, "NAME", "the instance")],
        summary: "upgrade an instance from its library now on disk",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::upgrade(call)),
    },
    Command {
        name: "stats",
        arguments: &[argument(Form::Optional, "NAME", "only those of this instance")],
        summary: "what each instance has in use, and has done",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(stats::stats(call)),
    },
    Command {
        name: "metrics",
        arguments: &[argument(Form::Optional, "NAME", "only those of this instance")],
        summary: "what the plugins count of their own",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(look::metrics(call)),
    },
    Command {
        name: "listeners",
        arguments: &[],
        summary: "where the instances listen",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(look::listeners(call)),
    },
    Command {
        name: "connections",
        arguments: &[
            argument(Form::Rest, "NAME", "only those of these instances"),
            argument(
                Form::Values("STATE"),
                "state",
                "only those that are connecting, open, parked or closing",
            ),
            argument(
                Form::Value("PEER"),
                "peer",
                "only those from an address (with or without port), a network (10.0.0.0/8), or unix",
            ),
            argument(
                Form::Value("ADDRESS"),
                "local",
                "only those to this address of ours, written as a peer's is",
            ),
            argument(Form::Value("DURATION"), "older", "only those at least so old: \"5 min\""),
            argument(
                Form::Value("DURATION"),
                "idle",
                "only those over which no data came or went for so long: 30s",
            ),
            argument(
                Form::Value("SIZE"),
                "bytes",
                "only those that received and sent at least so much: 1MiB",
            ),
            argument(
                Form::Value("KEY"),
                "sort",
                "id, or by the largest age, idle, received, sent or bytes",
            ),
            argument(Form::Flag, "reverse", "the other way round"),
            argument(
                Form::Value("N"),
                "limit",
                "how many are shown; 100 if not said, and all with --json",
            ),
            argument(Form::Flag, "count", "only how many there are"),
        ],
        summary: "who is connected",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(connections::connections(call)),
    },
    Command {
        name: "kill",
        arguments: &[argument(Form::Required, "ID", "the connection, as `connections` shows it")],
        summary: "cut a connection",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(lifecycle::kill(call)),
    },
    Command {
        name: "routes",
        arguments: &[],
        summary: "the HTTP routes in the order in which they are asked",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(routes::routes(call)),
    },
    Command {
        name: "routes move",
        arguments: &[
            argument(Form::Required, "ID", "the route, as `routes` shows it"),
            argument(
                Form::Required,
                "PLACE",
                "first, last, before or after; back takes the move back",
            ),
            argument(Form::Optional, "OTHER", "the route to stand before or after"),
        ],
        summary: "move a filter among those of its server, or a handler among those of its path",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(routes::move_route(call)),
    },
    Command {
        name: "config show",
        arguments: &[argument(Form::Optional, "NAME", "only this instance")],
        summary: "the configuration in force, defaults and all",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(configuration::show(call)),
    },
    Command {
        name: "config check",
        arguments: &[],
        summary: "what is wrong with the file as it is now",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(configuration::check(call)),
    },
    Command {
        name: "config apply",
        arguments: &[],
        summary: "start, stop and upgrade what differs in the file",
        role: Role::Admin,
        changes: true,
        run: |call| Box::pin(configuration::apply(call)),
    },
    Command {
        name: "log",
        arguments: &[
            argument(Form::Optional, "N", "how many lines; 20 if not said"),
            ABOUT_INSTANCE,
            AT_LEVEL,
        ],
        summary: "the last lines of the log",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(log::last(call)),
    },
    Command {
        name: "log follow",
        arguments: &[ABOUT_INSTANCE, AT_LEVEL],
        summary: "the log as it grows",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(log::follow(call)),
    },
    Command {
        name: "log level",
        arguments: &[argument(
            Form::Optional,
            "LEVEL",
            "error, warn, info, debug or trace; without it, the present one",
        )],
        summary: "the least severe level that is logged, shown or changed",
        role: Role::Operator,
        changes: true,
        run: |call| Box::pin(log::level(call)),
    },
    Command {
        name: COMPLETE,
        arguments: &[argument(
            Form::Rest,
            "WORD",
            "a line so far; the last is the one being typed",
        )],
        summary: "what may stand for the last word, for shells and `medusa monitor`",
        role: Role::Viewer,
        changes: false,
        run: |call| Box::pin(complete::complete(call)),
    },
    Command {
        name: "shutdown",
        arguments: &[],
        summary: "drain, then stop the host",
        role: Role::Admin,
        changes: true,
        run: |call| Box::pin(lifecycle::shutdown(call)),
    },
];

const ABOUT_INSTANCE: Argument =
    argument(Form::Values("NAME"), "instance", "only lines about this instance");
const AT_LEVEL: Argument = argument(
    Form::Value("LEVEL"),
    "level",
    "only lines that are at least so severe, among those that are logged",
);

/// The command that is asked at each Tab, and so is not worth a line of the log.
const COMPLETE: &str = "complete";

/// The word that asks for JSON, wherever it stands.
const JSON: &str = "--json";

/// Whether the words ask for JSON.
pub fn wants_json(words: &[String]) -> bool {
    words.iter().take_while(|word| *word != "--").any(|word| word == JSON)
}

/// The command that the words name, with its arguments.
pub fn find(words: &[String], control: &dyn Control) -> Result<Found, Failure> {
    let words: Vec<String> = {
        let mut options = true;
        let keep = |word: &&String| {
            options &= *word != "--";
            !options || *word != JSON
        };
        words.iter().filter(keep).cloned().collect()
    };
    // `log follow` before `log`.
    for length in [2, 1] {
        let Some(name) = words.get(..length).map(|name| name.join(" ")) else { continue };
        if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
            return Ok(Found::Builtin(command, command.parse(&words[length..])?));
        }
    }
    if let [instance, name, rest @ ..] = &words[..] {
        let found =
            |command: &PluginCommand| command.instance == *instance && command.name == *name;
        if let Some(command) = control.commands().into_iter().find(found) {
            return Ok(Found::Plugin(command, rest.to_vec()));
        }
    }
    Err(Failure::Usage(unknown(&words, control)))
}

impl Found {
    /// Its name as it is typed.
    pub fn name(&self) -> String {
        match self {
            Found::Builtin(command, _) => command.name.to_owned(),
            Found::Plugin(command, _) => format!("{} {}", command.instance, command.name),
        }
    }

    /// Whether its use is worth a line of the log.
    pub fn is_audited(&self) -> bool {
        !matches!(self, Found::Builtin(command, _) if command.name == COMPLETE)
    }

    /// Who may use it.
    pub fn role(&self) -> Role {
        match self {
            Found::Builtin(command, _) => command.role,
            Found::Plugin(command, _) => command.role,
        }
    }

    /// Whether it changes something.
    pub fn changes(&self) -> bool {
        match self {
            Found::Builtin(command, _) => command.changes,
            Found::Plugin(command, _) => command.changes,
        }
    }

    /// Runs it.
    pub fn run(self, call: Call) -> Later<'static, Result<(), Failure>> {
        match self {
            Found::Builtin(command, arguments) => (command.run)(Call { arguments, ..call }),
            Found::Plugin(PluginCommand { instance, name, .. }, words) => Box::pin(async move {
                let plugin_call =
                    PluginCall { instance, name, words, json: call.json, out: call.out };
                Ok(call.control.run(plugin_call).await?)
            }),
        }
    }
}

const fn argument(form: Form, name: &'static str, doc: &'static str) -> Argument {
    Argument { form, name, doc }
}

/// What to say of words that name no command.
fn unknown(words: &[String], control: &dyn Control) -> String {
    let Some(first) = words.first() else {
        return "no command; try `help`".to_owned();
    };
    let group: Vec<String> = {
        let builtin = COMMANDS
            .iter()
            .filter(|command| command.name.split(' ').next() == Some(first))
            .map(Command::usage);
        let plugins = control.commands().into_iter().filter(|command| command.instance == *first);
        builtin.chain(plugins.map(|command| help::plugin_usage(&command))).collect()
    };
    if !group.is_empty() {
        return format!(
            "`{first}` is followed by another word\nusage: {}",
            group.join("\n       ")
        );
    }
    let typed: String = words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let firsts = names.iter().map(|name| split_first(name));
    let near =
        words::nearest(&typed, names.iter().copied()).or_else(|| words::nearest(first, firsts));
    let near = near.map_or("try `help`".to_owned(), |near| format!("did you mean `{near}`?"));
    format!("there is no command {}; {near}", words::quote(&typed))
}

fn split_first(name: &'static str) -> &'static str {
    name.split(' ').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
