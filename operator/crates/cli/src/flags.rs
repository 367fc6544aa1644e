//! What can be typed.

mod files;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::files::{AuditCommand, AuditVerify, SourceCommand, SourceTest, VexCommand, VexImport};

/// Security findings, what Quell did about them, what it would do, and the way back
#[derive(Debug, Parser)]
#[command(name = "kubectl quell", bin_name = "kubectl quell", version, max_term_width = 100, after_help = OVERVIEW)]
pub struct Flags {
    #[command(flatten)]
    pub connect: Connect,
    #[command(subcommand)]
    pub command: Command,
}

const OVERVIEW: &str = "\
Examples:
  kubectl quell get -A                            what is wrong, and what was done about it
  kubectl quell explain -n shop falco-0a1b2c3d4e  all about one of them
  kubectl quell plan playbook.yaml --finding falco-0a1b2c3d4e -n shop
  kubectl quell undo -n shop falco-0a1b2c3d4e
  kubectl quell doctor                            can a quarantine hold here?

Exit codes: 0 done, 1 failed or refused, 2 wrong usage";

/// Which cluster and namespace.
#[derive(Args, Clone, Debug, Default)]
pub struct Connect {
    /// Namespace; default: that of the context
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig; default: what KUBECONFIG names, or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print findings and what was done about them
    #[command(after_help = GET)]
    Get(Get),
    /// Say what happened, what Quell did and didn't do, why, and what to do now
    #[command(after_help = EXPLAIN)]
    Explain(Explain),
    /// Print what happens, as it happens
    #[command(after_help = WATCH)]
    Watch(Watch),
    /// Say exactly which writes a playbook would make; make none
    #[command(after_help = PLAN)]
    Plan(Plan),
    /// Undo what the runs for a finding did
    #[command(after_help = UNDO)]
    Undo(Undo),
    /// Say whether this cluster and this installation can hold a quarantine, by what is installed and by connections that are really tried
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Approve what a run waits for
    #[command(after_help = APPROVE)]
    Approve(Approve),
    /// Deny what a run waits for
    #[command(after_help = APPROVE)]
    Deny(Approve),
    /// Begin no further step of a run until it is resumed
    #[command(after_help = PAUSE)]
    Pause(Steer),
    /// Go on with a run that was paused
    #[command(after_help = PAUSE)]
    Resume(Steer),
    /// Stop a run; what it did stays
    #[command(after_help = CANCEL)]
    Cancel(Steer),
    /// Turn the stop switch on: Quell makes no effect anywhere
    #[command(after_help = STOP)]
    Stop(Stop),
    /// Turn the stop switch off: runs that it held go on
    #[command(after_help = "Examples:\n  kubectl quell go")]
    Go,
    /// Accept what VEX documents state
    Vex {
        #[command(subcommand)]
        command: VexCommand,
    },
    /// Work on the formats of tools
    Source {
        #[command(subcommand)]
        command: SourceCommand,
    },
    /// Work on the audit trail
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Print the version of this program
    #[command(after_help = "Examples:\n  kubectl quell version")]
    Version,
}

const GET: &str = "\
Examples:
  kubectl quell get                       findings of this namespace
  kubectl quell get -A -o wide            of all namespaces, nothing cut
  kubectl quell get falco-0a1b2c3d4e      one, in short
  kubectl quell get -A -o json | jq -r '.items[].spec.rule'";

#[derive(Args, Clone, Debug)]
pub struct Get {
    /// One finding: NAME or finding/NAME
    pub finding: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "finding")]
    pub all_namespaces: bool,
    /// How it is printed; default: a table of at most 120 characters a line
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table with more columns, nothing cut
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only
    Name,
}

const EXPLAIN: &str = "\
Examples:
  kubectl quell explain falco-0a1b2c3d4e
  kubectl quell explain -n shop finding/falco-0a1b2c3d4e";

#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// The finding: NAME or finding/NAME
    pub finding: String,
}

const WATCH: &str = "\
Examples:
  kubectl quell watch                     this namespace, until Ctrl-C
  kubectl quell watch -A --since 1h       all namespaces, and what happened in the last hour
  kubectl quell watch --until-final falco-0a1b2c3d4e";

#[derive(Args, Clone, Debug)]
pub struct Watch {
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Print what happened in this time before now, too, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// End when all runs for this finding have ended; exit code 1 if one failed
    #[arg(long, value_name = "FINDING", conflicts_with = "all_namespaces")]
    pub until_final: Option<String>,
}

const PLAN: &str = "\
The playbook is judged by the API server as by `kubectl apply`, and every write is sent as a dry run, which changes nothing. \
A Playbook is rehearsed as its service account where you may impersonate it, else with your own rights.

Examples:
  kubectl quell plan playbook.yaml                             is it right? which findings is it for?
  kubectl quell plan playbook.yaml --finding falco-0a1b2c3d4e  what would it do about this one?
  kubectl quell plan playbook.yaml --finding falco-0a1b2c3d4e --assume-match";

#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// YAML with Playbooks or ClusterPlaybooks; may hold the Channels that they name; - for standard input
    pub file: PathBuf,
    /// The finding that it would be run for: NAME or finding/NAME
    #[arg(long, value_name = "FINDING")]
    pub finding: Option<String>,
    /// Go on where the playbook is not for the finding
    #[arg(long, requires = "finding")]
    pub assume_match: bool,
    /// Namespace that Quell runs in, where the Secrets of ClusterChannels are
    #[arg(long, default_value = "quell", value_name = "NAME")]
    pub quell_namespace: String,
}

const UNDO: &str = "\
Steps are undone in reverse order. What somebody else has changed since is left alone, and said.

Examples:
  kubectl quell undo falco-0a1b2c3d4e                 every run for this finding
  kubectl quell undo remediation/contain-5f6g7h8i9j   this run only
  kubectl quell undo remediation/contain-5f6g7h8i9j --step cut-off
  kubectl quell undo falco-0a1b2c3d4e --no-wait";

#[derive(Args, Clone, Debug)]
pub struct Undo {
    /// The finding (NAME or finding/NAME), or one run (remediation/NAME)
    #[arg(value_name = "FINDING|remediation/NAME")]
    pub what: String,
    /// Only this step of the run, whatever the run does; may be given several times
    #[arg(long, value_name = "NAME")]
    pub step: Vec<String>,
    /// Wait until it is undone; the default
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Ask for the undo, and don't wait
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

const DOCTOR: &str = "\
Looks at what is installed, then tries the network with two short-lived pods without any right, in a namespace of its own that is deleted \
again, also on Ctrl-C. Says whether policies are enforced, how fast, and whether open connections are cut.

Exit codes: 0 nothing is bad, 1 something is bad or could not be found out, 2 wrong usage

Examples:
  kubectl quell doctor                      everything; takes up to two minutes
  kubectl quell doctor --no-packets         what the API server tells; makes no pod
  kubectl quell doctor --image registry.example/quell:0.1.0
  kubectl quell doctor --quell-namespace security";

#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Look only; make no namespace and no pods
    #[arg(long)]
    pub no_packets: bool,
    /// Image of the pods, one that holds `quell`; default: that of the operator's Deployment
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How long pods may take to start, and policies to be enforced
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
    /// Namespace that Quell runs in
    #[arg(long, default_value = "quell", value_name = "NAME")]
    pub quell_namespace: String,
}

const APPROVE: &str = "\
The decision is yours, by the name that the API server knows you by, and binds to what is asked now: the step with its parameters. \
One denial is enough.

Examples:
  kubectl quell approve falco-0a1b2c3d4e                            the one thing that waits
  kubectl quell approve remediation/contain-5f6g7h8i9j roll-back    one step of one run
  kubectl quell deny remediation/contain-5f6g7h8i9j roll-back --reason 'a release is under way'";

/// A decision.
#[derive(Args, Clone, Debug)]
pub struct Approve {
    /// The finding (NAME or finding/NAME), or one run (remediation/NAME)
    #[arg(value_name = "FINDING|remediation/NAME")]
    pub what: String,
    /// The step, where several wait
    pub step: Option<String>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
}

const PAUSE: &str = "\
What has begun is seen through. A pause does not count towards the run's timeout.

Examples:
  kubectl quell pause falco-0a1b2c3d4e                  every run for this finding that is under way
  kubectl quell pause remediation/contain-5f6g7h8i9j    this run only
  kubectl quell resume remediation/contain-5f6g7h8i9j";

const CANCEL: &str = "\
No further step begins, and what is under way is let go of. What was done stays: kubectl quell undo takes it back. The steps of the \
playbook's finally are done all the same.

Examples:
  kubectl quell cancel falco-0a1b2c3d4e                 every run for this finding that is under way
  kubectl quell cancel remediation/contain-5f6g7h8i9j   this run only";

/// What a run that is under way is asked for.
#[derive(Args, Clone, Debug)]
pub struct Steer {
    /// The finding (NAME or finding/NAME), or one run (remediation/NAME)
    #[arg(value_name = "FINDING|remediation/NAME")]
    pub what: String,
}

const STOP: &str = "\
The next effect isn't made; what is under way as one request is. Runs wait, and go on after `kubectl quell go`. An undo that you ask for is made \
all the same.

Examples:
  kubectl quell stop
  kubectl quell stop --reason 'ana: false alarms from the new rule, looking'";

#[derive(Args, Clone, Debug)]
pub struct Stop {
    /// Why, for whoever reads that a run is held
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = "a duration is written as 30s, 10m or 1h30m";
    let parsed: kube::core::Duration = text.parse().map_err(|_| wrong.to_owned())?;
    if text.starts_with('-') { Err(wrong.to_owned()) } else { Ok(parsed.into()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        let command = Flags::command();
        let mut open: Vec<_> = command.get_subcommands().collect();
        while let Some(one) = open.pop() {
            if one.has_subcommands() {
                open.extend(one.get_subcommands());
            } else {
                let help = one.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:\n  "), "{}", one.get_name());
            }
        }
    }

    #[test]
    fn durations_are_written_as_kubernetes_does() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert!(duration("-5m").is_err() && duration("5").is_err() && duration("soon").is_err());
    }
}
