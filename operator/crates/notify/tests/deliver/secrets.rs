//! I6 of the design: secrets never appear in a notification, a log, a status or an Event, and all of those are made from
//! these errors.

use quell_crds::v1alpha1::{ChannelKind, Encryption, Slack, Smtp, Webhook};
use quell_notify::{Courier, Destination};

use crate::support::http::{Answer, Receiver};
use crate::support::mail::{MailServer, Rules};
use crate::support::pki::Authority;
use crate::support::{closed_port, key, message, resolve};

const SECRET: &str = "S3cr3tS3cr3t";
/// `\0quell\0S3cr3tS3cr3t`, and the password alone, as AUTH sends them.
const ENCODED: [&str; 2] = ["AHF1ZWxsAFMzY3IzdFMzY3IzdA==", "UzNjcjN0UzNjcjN0"];

async fn assert_kept(courier: &Courier, destination: &Destination) {
    let error = courier.deliver(destination, &message()).await.expect_err("a failure");
    for shown in [error.to_string(), format!("{error:?}"), format!("{destination} {destination:?}")] {
        for secret in [SECRET, ENCODED[0], ENCODED[1]] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

fn servers(authority: &Authority) -> Vec<Receiver> {
    let said = |status| Answer::Is(status, vec![], format!("wrong: {SECRET}"));
    let redirect = Answer::Is(302, vec![("location", format!("https://example.com/{SECRET}"))], String::new());
    [Answer::Echo(404), Answer::Echo(500), said(403), said(503), redirect, Answer::Never]
        .map(|answer| Receiver::start_tls(answer, authority))
        .into()
}

fn courier(authority: &Authority) -> Courier {
    let courier = Courier::new(Some(authority.pem.as_bytes())).expect("a courier");
    courier.with_timeout(std::time::Duration::from_millis(500))
}

fn slack(host: &str) -> Destination {
    let url = format!("https://{host}/services/T0/B0/{SECRET}");
    resolve(&ChannelKind::Slack(Slack { webhook_url: key("url") }), &url).expect("a destination")
}

fn webhook(host: &str) -> Destination {
    let url = format!("https://{host}/hooks/{SECRET}?token={SECRET}");
    resolve(&ChannelKind::Webhook(Webhook { url, hmac_key: key("hmac") }), SECRET).expect("a destination")
}

#[tokio::test]
async fn no_error_of_slack_or_a_webhook_shows_a_secret_whatever_went_wrong() {
    let authority = Authority::new();
    let (courier, stranger) = (courier(&authority), Courier::new(None).expect("a courier"));
    let mut hosts: Vec<String> = vec![];
    let servers = servers(&authority);
    hosts.extend(servers.iter().map(|server| server.address.to_string()));
    hosts.push(format!("127.0.0.1:{}", closed_port()));
    hosts.push("no-such-host.invalid".to_owned());
    for host in &hosts {
        assert_kept(&courier, &slack(host)).await;
        assert_kept(&courier, &webhook(host)).await;
    }
    assert_kept(&stranger, &slack(&hosts[0])).await;
    assert_kept(&stranger, &webhook(&hosts[0])).await;
}

#[tokio::test]
async fn no_error_of_a_mail_server_shows_a_password_that_it_repeats() {
    let authority = Authority::new();
    for repeated in [SECRET, ENCODED[0], ENCODED[1]] {
        let wrong_login = format!("5.7.8 authentication failed: {repeated}");
        let rules = Rules { login: Some(("quell", "another")), wrong_login, ..Rules::with_tls(&authority) };
        let server = MailServer::start(rules).await;
        let spec = Smtp {
            host: "127.0.0.1".to_owned(),
            port: Some(i32::from(server.port)),
            encryption: Encryption::StartTls,
            from: "quell@example.com".to_owned(),
            to: vec!["soc@example.com".to_owned()],
            username: Some("quell".to_owned()),
            password: Some(key("password")),
        };
        let destination = resolve(&ChannelKind::Smtp(spec), SECRET).expect("a destination");
        assert_kept(&courier(&authority), &destination).await;
    }
}
