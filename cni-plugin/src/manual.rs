//! What the program takes, as tables: `--help`, the manual page and the table of keys are made of
//! them, and the command line is read by them.

mod keys;
mod render;

pub(crate) use render::{about, help, keys_table, page};

/// A subcommand.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What it does, in one line.
    summary: &'static str,
    /// What there is to know beside the options.
    text: &'static str,
    pub(crate) options: &'static [Opt],
}

/// An option of a subcommand.
#[derive(Debug)]
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    /// What stands for the value in the help; empty for a switch.
    pub(crate) value: &'static str,
    text: &'static str,
}

/// A key of a network's configuration.
#[derive(Debug)]
struct Key {
    name: &'static str,
    default: &'static str,
    text: &'static str,
}

/// The keys of one plugin.
#[derive(Debug)]
struct Section {
    title: &'static str,
    text: &'static str,
    keys: &'static [Key],
}

const JSON: Opt = Opt {
    name: "--json",
    value: "",
    text: "print JSON instead of a table",
};

/// Every subcommand.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "install",
        summary: "put the plugin, links and a network's configuration in place",
        text: "The running program is copied under another name and renamed, so that a runtime that \
               executes the old one at that moment goes on with it. Nothing is changed when \
               anything is in the way.",
        options: &[
            Opt {
                name: "--bin-dir",
                value: "DIR",
                text: "the runtime's folder of plugins, often /opt/cni/bin; needed",
            },
            Opt {
                name: "--links",
                value: "",
                text: "links there for every plugin that this program can stand in for",
            },
            Opt {
                name: "--force",
                value: "",
                text: "put links where other programs are; uninstall does not bring them back",
            },
            Opt {
                name: "--conf-dir",
                value: "DIR",
                text: "the runtime's folder of networks, often /etc/cni/net.d: write \
                       10-causeway.conflist there",
            },
            Opt {
                name: "--pod-cidr",
                value: "CIDR[,CIDR]",
                text: "the pods' subnet on this node, one of each family at most; needed with \
                       --conf-dir",
            },
            Opt {
                name: "--name",
                value: "NAME",
                text: "the network's name; causeway unless given",
            },
            Opt {
                name: "--bridge",
                value: "NAME",
                text: "the bridge's name; cni0 unless given",
            },
            Opt {
                name: "--mtu",
                value: "BYTES",
                text: "the pods' MTU; the kernel's unless given",
            },
        ],
    },
    Command {
        name: "uninstall",
        summary: "take away what install put there",
        text: "Links that lead elsewhere and networks of other plugins stay. So do the reservations \
               and everything in the kernel, which belong to running pods.",
        options: &[
            Opt {
                name: "--bin-dir",
                value: "DIR",
                text: "the folder that was given to install; needed",
            },
            Opt {
                name: "--conf-dir",
                value: "DIR",
                text: "the folder that was given to install",
            },
        ],
    },
    Command {
        name: "state",
        summary: "list pods with their addresses, host interfaces and ports",
        text: "Reads the reservations of host-local and this network namespace's tables. A pod \
               whose interface is - has none here any more.",
        options: &[
            JSON,
            Opt {
                name: "--data-dir",
                value: "DIR",
                text: "the reservations' folder; /var/lib/cni/networks unless given",
            },
        ],
    },
    Command {
        name: "options",
        summary: "print every key of a network's configuration as a Markdown table",
        text: "",
        options: &[],
    },
    Command {
        name: "man",
        summary: "print this manual as a page for man(1)",
        text: "For instance: causeway-cni man >/usr/local/share/man/man8/causeway-cni.8",
        options: &[],
    },
];
