//! Tencent Cloud Workload Protection: messages of its robot webhook, in Chinese and English, and what its API lists.
//!
//! Fields: cloud.tencent.com/document/product/296/97120 for messages (one flat object, every value a text); API `cwp` 2018-02-28 for the
//! lists, where a number means another thing in each of them: see [`LISTS`]. A message names a host, and nothing of Kubernetes.

use quell_crds::v1alpha1::{Category, Severity};

use crate::json::{self, Object};
use crate::severity::known;
use crate::time::time_in_china;
use crate::walk::{Fields, items, object_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "tencent-cwp";

/// Fields of every message.
const PUBLIC: [&str; 6] = ["uin", "nickname", "server", "instance_id", "region", "time"];
/// Fields that say how it stands, and not what happened.
const PASSING: [&str; 8] = ["event_type", "level", "status", "banned", "count", "area", "location", "suggestion"];

/// How bad an event is where its message doesn't say, by a word of its type.
const TYPES: [(&[&str], Severity); 3] = [
    (
        &[
            "反弹",
            "提权",
            "恶意文件",
            "内存马",
            "勒索",
            "篡改",
            "reverse shell",
            "escalation",
            "malicious file",
            "memory",
            "ransom",
            "tamper",
            "trojan",
        ],
        Severity::High,
    ),
    (
        &[
            "登录",
            "破解",
            "恶意请求",
            "命令",
            "进程",
            "攻击",
            "核心文件",
            "漏洞",
            "卸载",
            "login",
            "crack",
            "brute",
            "request",
            "command",
            "process",
            "attack",
            "core file",
            "vulnerab",
            "uninstall",
        ],
        Severity::Medium,
    ),
    (&["基线", "离线", "baseline", "offline"], Severity::Low),
];

/// What one of the API's lists holds.
struct List {
    /// A field that only objects of this list have.
    mark: &'static str,
    rule: &'static str,
    /// The field with the level, and what its numbers from 0 on mean.
    level: &'static str,
    levels: &'static [Severity],
    /// How bad it is where it has no level.
    usual: Severity,
    /// The numbers of `Status` that say that somebody dealt with it.
    done: &'static [&'static str],
    /// What tells one from another.
    identity: &'static [&'static str],
    category: Category,
}

const LISTS: [List; 5] = [
    List {
        mark: "BashCmd",
        rule: "高危命令",
        level: "RuleLevel",
        levels: &[Severity::Info, Severity::High, Severity::Medium, Severity::Low],
        usual: Severity::Medium,
        done: &["1", "2", "3"],
        identity: &["RuleName", "BashCmd"],
        category: Category::Runtime,
    },
    List {
        mark: "VirusName",
        rule: "恶意文件",
        level: "Level",
        levels: &[Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical],
        usual: Severity::High,
        done: &["5", "6", "8", "14"],
        identity: &["VirusName", "FilePath"],
        category: Category::Runtime,
    },
    List {
        mark: "ProcFilePrivilege",
        rule: "本地提权",
        level: "",
        levels: &[],
        usual: Severity::High,
        done: &["2", "3", "4", "5"],
        identity: &["FullPath", "CmdLine"],
        category: Category::Runtime,
    },
    List {
        mark: "DstPort",
        rule: "反弹Shell",
        level: "RiskLevel",
        levels: &[Severity::Medium, Severity::High],
        usual: Severity::High,
        done: &["2", "3", "4", "5"],
        identity: &["FullPath", "CmdLine", "DstIp", "DstPort"],
        category: Category::Runtime,
    },
    List {
        mark: "VulId",
        rule: "漏洞",
        level: "Level",
        levels: &[Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical],
        usual: Severity::Medium,
        done: &["1", "3"],
        identity: &["VulId"],
        category: Category::Vulnerability,
    },
];

/// Reads messages and lists.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        match object_at(&object.fields, &["Response"]) {
            Some(response) => listed(&object, response, &mut signals)?,
            None => signals.extend(message(&object)?),
        }
    }
    Ok(signals)
}

fn message(object: &Object) -> Result<Option<Signal>, Unreadable> {
    let fields = &object.fields;
    let text = |name: &str| text_at(fields, &[name]);
    let Some(rule) = text("event_type") else {
        let is_message = text("uin").is_some() && (text("instance_id").is_some() || text("server").is_some());
        // Without a type nothing happened: the fields that every message has, alone.
        return if is_message {
            Ok(None)
        } else {
            Err(Unreadable::other_format(object.at("event_type"), "a message of CWP has one"))
        };
    };
    let own = |(name, value): (&String, &serde_json::Value)| {
        let name = name.as_str();
        let value = crate::lenient::text(value)?;
        (!PUBLIC.contains(&name) && !PASSING.contains(&name)).then(|| format!("{name}={value}"))
    };
    let mut identity: Vec<String> = fields.iter().filter_map(own).collect();
    identity.sort();
    let happened = if identity.is_empty() { rule.clone() } else { format!("{rule}: {}", identity.join(", ")) };
    Ok(Some(Signal {
        severity: text("level").and_then(|level| level_of(&level)).unwrap_or_else(|| of_type(&rule)),
        message: happened,
        details: bound::details(fields),
        detected_at: text("time").and_then(|at| time_in_china(&at)),
        identity,
        ..Signal::new(TOOL, Category::Runtime, rule, host(text("server"), text("instance_id")))
    }))
}

/// A word, after which a sentence may follow: `严重,您的服务器…`, `High-risk`.
fn level_of(level: &str) -> Option<Severity> {
    let word = level.split([',', '，', ':', '：', ' ', '(', '（']).next().unwrap_or_default();
    let word = word.to_ascii_lowercase();
    let word = word.trim_end_matches("-risk").trim_end_matches('风').trim_end_matches("风险");
    match word {
        "reminder" | "notice" | "prompt" => Some(Severity::Info),
        word => known(word),
    }
}

fn of_type(rule: &str) -> Severity {
    let rule = rule.to_lowercase();
    TYPES
        .iter()
        .find(|(words, _)| words.iter().any(|word| rule.contains(word)))
        .map_or(Severity::Info, |(_, severity)| *severity)
}

/// The machine: `172.16.0.41 [name]`. Its address is that of a node, where it is one.
fn host(server: Option<String>, instance: Option<String>) -> About {
    let address = server.as_deref().and_then(|server| server.split([' ', '[']).next()).unwrap_or_default();
    if address.parse::<std::net::IpAddr>().is_ok() {
        return About::Address { ip: address.to_owned() };
    }
    About::outside("Host", &instance.or(server).unwrap_or_else(|| "unknown".to_owned()))
}

fn listed(object: &Object, response: &Fields, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    let moved = |error: Unreadable| Unreadable { at: format!("Response.{}", error.at), ..error };
    let mut known_list = false;
    for name in ["List", "MalwareInfo", "MalWareList", "VulInfoList"] {
        let Some(list) = items(object, response, name).map_err(moved)? else { continue };
        known_list = true;
        for (at, one) in list {
            let Some(kind) = LISTS.iter().find(|kind| one.contains_key(kind.mark)) else {
                let at = object.at(&format!("Response.{at}"));
                return Err(Unreadable::new(
                    at,
                    "what the API of CWP lists here is not read: commands, files, escalations, reverse shells and vulnerabilities are",
                ));
            };
            signals.push(entry(kind, one));
        }
    }
    if known_list {
        Ok(())
    } else {
        Err(Unreadable::other_format(object.at("Response.List"), "the API of CWP lists events here"))
    }
}

fn entry(kind: &List, one: &Fields) -> Signal {
    let text = |way: &[&str]| text_at(one, way);
    let number = text(&[kind.level]).and_then(|number| number.parse::<usize>().ok());
    let identity: Vec<String> = kind.identity.iter().map(|name| text(&[name]).unwrap_or_default()).collect();
    let address =
        ["HostIp", "Hostip"].iter().find_map(|name| text(&[name])).or_else(|| text(&["MachineExtraInfo", "PrivateIP"]));
    let rule = match kind.category {
        Category::Vulnerability => text(&["CveId"]).or_else(|| text(&["Name"])).unwrap_or_else(|| kind.rule.to_owned()),
        _ => kind.rule.to_owned(),
    };
    let names = [
        "Id",
        "Uuid",
        "MachineName",
        "Status",
        "RuleName",
        "RuleLevel",
        "BashCmd",
        "User",
        "VirusName",
        "FilePath",
        "MD5",
        "Level",
        "CmdLine",
        "FullPath",
        "ProcTree",
        "DstIp",
        "DstPort",
        "RiskLevel",
        "Name",
        "CveId",
        "CvssScore",
        "HostCount",
        "Labels",
    ];
    let about = match kind.category {
        // Of a vulnerability the list says how many hosts have it, and not which.
        Category::Vulnerability => About::outside("External", "hosts"),
        _ => host(address, text(&["MachineExtraInfo", "InstanceID"]).or_else(|| text(&["MachineName"]))),
    };
    Signal {
        severity: number.and_then(|number| kind.levels.get(number).copied()).unwrap_or(kind.usual),
        message: format!(
            "{}: {}",
            kind.rule,
            identity.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(", ")
        ),
        resolved: text(&["Status"]).is_some_and(|status| kind.done.contains(&status.as_str())),
        details: bound::details(&pick(one, &names)),
        detected_at: ["CreateTime", "LastTime"].iter().find_map(|name| time_in_china(&text(&[name])?)),
        identity,
        ..Signal::new(TOOL, kind.category, rule, about)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one(body: &Value) -> Signal {
        read(body.to_string().as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_message_is_about_its_host_as_bad_as_it_says_in_either_language() {
        for (level, severity) in [
            ("严重,您的服务器疑似被黑客入侵", Severity::Critical),
            ("高危", Severity::High),
            ("中危", Severity::Medium),
            ("低危", Severity::Low),
            ("提示", Severity::Info),
            ("Critical", Severity::Critical),
            ("Fatal", Severity::Critical),
            ("High-risk", Severity::High),
            ("Medium-risk, please check", Severity::Medium),
            ("Low-risk", Severity::Low),
            ("Reminder", Severity::Info),
        ] {
            let signal = one(
                &json!({"uin": "1", "server": "172.16.0.41 [web]", "instance_id": "ins-1", "time": "2023-10-30 09:24:20",
                "event_type": "恶意文件", "path": "/root/a.jsp", "level": level}),
            );
            assert_eq!(signal.severity, severity, "{level}");
            assert_eq!(
                (signal.about, signal.message.as_str()),
                (About::Address { ip: "172.16.0.41".to_owned() }, "恶意文件: path=/root/a.jsp")
            );
            assert_eq!(signal.detected_at.unwrap().to_rfc3339(), "2023-10-30T01:24:20+00:00");
        }
    }

    #[test]
    fn without_a_level_the_type_tells() {
        for (kind, severity) in [
            ("反弹Shell", Severity::High),
            ("密码破解", Severity::Medium),
            ("Reverse Shell", Severity::High),
            ("客户端离线", Severity::Low),
            ("新类型", Severity::Info),
        ] {
            assert_eq!(one(&json!({"event_type": kind, "level": ""})).severity, severity, "{kind}");
        }
    }

    #[test]
    fn it_is_the_same_when_only_time_and_count_differ() {
        let message = |time: &str, count: &str, ip: &str| {
            one(
                &json!({"event_type": "密码破解", "time": time, "count": count, "src_ip": ip, "server": "172.x.x.41 [a]", "instance_id": "ins-1"}),
            )
        };
        let (a, b) = (message("2023-10-30 09:24:20", "3", "1.1.1.1"), message("2023-10-30 10:00:00", "9", "1.1.1.1"));
        assert_eq!((&a.identity, &a.about), (&b.identity, &b.about));
        assert_ne!(a.identity, message("2023-10-30 09:24:20", "3", "2.2.2.2").identity);
        assert_eq!(a.about, About::outside("Host", "ins-1"));
    }

    #[test]
    fn each_list_of_the_api_has_numbers_of_its_own() {
        for (entry, severity, resolved) in [
            (json!({"BashCmd": "x", "RuleLevel": 1, "Status": 0}), Severity::High, false),
            (json!({"BashCmd": "x", "RuleLevel": 3, "Status": 1}), Severity::Low, true),
            (json!({"VirusName": "x", "Level": 1, "Status": 4}), Severity::Low, false),
            (json!({"ProcFilePrivilege": "-rws", "Status": 0}), Severity::High, false),
            (json!({"DstPort": 1, "RiskLevel": 1, "Status": 0}), Severity::High, false),
            (json!({"VulId": 1, "Level": 4, "CveId": "CVE-2021-4104"}), Severity::Critical, false),
        ] {
            let signal = one(&json!({"Response": {"List": [entry]}}));
            assert_eq!((signal.severity, signal.resolved), (severity, resolved), "{entry}");
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        assert!(read(r#"{"uin":"1","server":"a"}"#.as_bytes()).unwrap().is_empty());
        for (body, at) in [
            (json!({"a": 1}), "event_type"),
            (json!({"Response": {"EventSet": []}}), "Response.List"),
            (json!({"Response": {"List": [{"a": 1}]}}), "Response.List[0]"),
        ] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
