use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{ChannelKind, Encryption, Smtp};
use quell_notify::{Courier, DeliveryError, Destination, Message};

use crate::support::mail::{MailServer, Rules};
use crate::support::pki::Authority;
use crate::support::{closed_port, courier, in_haste, key, message, resolve};

const PASSWORD: &str = "open sesame";

fn channel(port: u16, encryption: Encryption) -> Smtp {
    Smtp {
        host: "127.0.0.1".to_owned(),
        port: Some(i32::from(port)),
        encryption,
        from: "Quell <quell@example.com>".to_owned(),
        to: vec!["soc@example.com".to_owned(), "oncall@example.com".to_owned()],
        username: None,
        password: None,
    }
}

fn with_login(channel: Smtp) -> Smtp {
    Smtp { username: Some("quell".to_owned()), password: Some(key("password")), ..channel }
}

fn to(channel: Smtp) -> Destination {
    resolve(&ChannelKind::Smtp(channel), PASSWORD).expect("a destination")
}

fn trusting(authority: &Authority) -> Courier {
    Courier::new(Some(authority.pem.as_bytes())).expect("a courier")
}

async fn plain(rules: Rules, message: &Message) -> (MailServer, Result<(), DeliveryError>) {
    let server = MailServer::start(rules).await;
    let outcome = courier().deliver(&to(channel(server.port, Encryption::None)), message).await;
    (server, outcome)
}

#[tokio::test]
async fn a_delivered_mail_names_itself_its_severity_and_its_origin() {
    let (server, outcome) = plain(Rules::default(), &message()).await;
    outcome.expect("delivered");
    let [mail] = &server.inbox()[..] else { panic!("one mail") };
    assert_eq!(mail.from, "quell@example.com");
    assert_eq!(mail.to, ["soc@example.com", "oncall@example.com"]);
    let headers = mail.headers();
    for expected in [
        "From: Quell <quell@example.com>",
        "To: soc@example.com, oncall@example.com",
        "Subject: [Critical] Reverse shell in shop/web-0",
        "Message-ID: <6f1c-9=2ftell@example.com>",
        "Auto-Submitted: auto-generated",
        "Date: Tue, 14 Nov 2023 22:13:20 +0000",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
    ] {
        assert!(headers.iter().any(|header| header == expected), "no {expected:?} in {headers:#?}");
    }
    assert_eq!(server.commands().last().map(String::as_str), Some("QUIT"));
}

#[tokio::test]
async fn the_body_arrives_whole_even_with_a_line_of_one_dot() {
    let (server, outcome) = plain(Rules::default(), &message()).await;
    outcome.expect("delivered");
    let expected = concat!(
        "[Critical] Reverse shell in shop/web-0\r\n\r\n",
        "A shell was started.\r\n.\r\nIt talks to 203.0.113.7 =E2=80=93 =E2=80=9Cnow=E2=80=9D.\r\n\r\n",
        "Pod: shop/web-0\r\nNode: n1\r\nTime: 2023-11-14T22:13:20Z\r\n"
    );
    assert_eq!(server.inbox()[0].body().trim_end(), expected.trim_end());
}

#[tokio::test]
async fn a_title_with_line_breaks_adds_no_header() {
    let title = "x\r\nBcc: all@example.com\r\n\r\nbody\nReply-To: evil@example.com\u{85}\u{2028}";
    for title in [title.to_owned(), format!("ü{title}"), format!("{}{title}", "long ".repeat(100))] {
        let (server, outcome) = plain(Rules::default(), &Message { title, ..message() }).await;
        outcome.expect("delivered");
        let [mail] = &server.inbox()[..] else { panic!("one mail") };
        let names: Vec<String> =
            mail.headers().iter().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect();
        let mut expected = ["From", "Subject", "Message-ID", "Date", "Auto-Submitted", "To", "MIME-Version"].to_vec();
        expected.extend(["Content-Type", "Content-Transfer-Encoding"]);
        expected.sort_unstable();
        let mut found = names.clone();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(mail.to.len(), 2);
    }
}

#[tokio::test]
async fn starttls_is_spoken_before_anything_is_said_and_a_private_authority_is_trusted() {
    let authority = Authority::new();
    let server = MailServer::start(Rules::with_tls(&authority)).await;
    let destination = to(channel(server.port, Encryption::StartTls));
    trusting(&authority).deliver(&destination, &message()).await.expect("delivered");
    assert!(server.inbox()[0].encrypted);
    assert_eq!(server.commands()[1], "STARTTLS");
}

#[tokio::test]
async fn tls_from_the_first_byte_works_and_logs_in() {
    let authority = Authority::new();
    let rules = Rules { implicit: true, login: Some(("quell", PASSWORD)), ..Rules::with_tls(&authority) };
    let server = MailServer::start(rules).await;
    let destination = to(with_login(channel(server.port, Encryption::Tls)));
    trusting(&authority).deliver(&destination, &message()).await.expect("delivered");
    assert!(server.inbox()[0].encrypted);
}

#[tokio::test]
async fn a_server_with_a_certificate_of_an_unknown_authority_gets_nothing() {
    let authority = Authority::new();
    for (encryption, implicit) in [(Encryption::StartTls, false), (Encryption::Tls, true)] {
        let server = MailServer::start(Rules { implicit, ..Rules::with_tls(&authority) }).await;
        let error = courier().deliver(&to(channel(server.port, encryption)), &message()).await.expect_err("no trust");
        assert!(matches!(error, DeliveryError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        assert!(server.inbox().is_empty());
    }
}

#[tokio::test]
async fn a_server_without_starttls_is_refused_and_gets_nothing() {
    let server = MailServer::start(Rules::default()).await;
    let destination = to(with_login(channel(server.port, Encryption::StartTls)));
    let error = courier().deliver(&destination, &message()).await.expect_err("no STARTTLS");
    assert!(matches!(error, DeliveryError::Refused { code: None, .. }), "{error}");
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    assert!(server.commands().iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{:?}", server.commands());
}

#[tokio::test]
async fn answers_sent_in_the_clear_behind_starttls_are_not_believed() {
    let authority = Authority::new();
    let injected = "250-mail.example\r\n250 8BITMIME\r\n250 OK\r\n250 OK\r\n250 OK\r\n354 go\r\n250 queued\r\n";
    let server = MailServer::start(Rules { injected, ..Rules::with_tls(&authority) }).await;
    let destination = to(channel(server.port, Encryption::StartTls));
    let error = trusting(&authority).deliver(&destination, &message()).await.expect_err("an attack");
    assert!(matches!(error, DeliveryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_login_is_made_over_tls() {
    let authority = Authority::new();
    let server = MailServer::start(Rules { login: Some(("quell", PASSWORD)), ..Rules::with_tls(&authority) }).await;
    let destination = to(with_login(channel(server.port, Encryption::StartTls)));
    trusting(&authority).deliver(&destination, &message()).await.expect("delivered");
    assert_eq!(server.inbox().len(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_permanent() {
    let authority = Authority::new();
    let rules =
        Rules { login: Some(("quell", "another")), wrong_login: "5.7.8 no".to_owned(), ..Rules::with_tls(&authority) };
    let server = MailServer::start(rules).await;
    let destination = to(with_login(channel(server.port, Encryption::StartTls)));
    let error = trusting(&authority).deliver(&destination, &message()).await.expect_err("a wrong password");
    assert!(matches!(error, DeliveryError::Refused { code: Some(535), .. }), "{error}");
    assert!(server.inbox().is_empty());
}

#[tokio::test]
async fn a_5xx_is_permanent_and_a_4xx_is_transient() {
    let (_, outcome) = plain(Rules { verdict: Some((550, "no")), ..Rules::default() }, &message()).await;
    let error = outcome.expect_err("refused");
    assert!(matches!(error, DeliveryError::Refused { code: Some(550), .. }), "{error}");
    assert!(!error.is_transient());
    assert_eq!(error.reason(), Reason::ReceiverRefused);

    let (_, outcome) = plain(Rules { verdict: Some((451, "later")), ..Rules::default() }, &message()).await;
    let error = outcome.expect_err("put off");
    assert!(matches!(error, DeliveryError::TooBusy { code: 451, .. }), "{error}");
    assert!(error.is_transient());
    assert!(error.to_string().ends_with("451 later"), "{error}");
}

#[tokio::test]
async fn one_refused_receiver_does_not_keep_the_others_from_being_told() {
    let refuses = vec![("soc@example.com", 550, "no such user")];
    let (server, outcome) = plain(Rules { refuses, ..Rules::default() }, &message()).await;
    assert_eq!(server.inbox()[0].to, ["oncall@example.com"]);
    let error = outcome.expect_err("one is missing");
    assert!(!error.is_transient());
    assert!(error.to_string().ends_with("550 no such user (soc@example.com); 1 of 2 receivers were told"), "{error}");
}

#[tokio::test]
async fn receivers_who_can_be_told_later_make_the_error_transient() {
    let refuses = vec![("soc@example.com", 550, "no such user"), ("oncall@example.com", 451, "greylisted")];
    let (server, outcome) = plain(Rules { refuses, ..Rules::default() }, &message()).await;
    let error = outcome.expect_err("nobody told");
    assert!(matches!(error, DeliveryError::TooBusy { code: 451, .. }), "{error}");
    assert!(server.inbox().is_empty());
}

#[tokio::test]
async fn a_refused_connection_and_a_silent_server_are_transient() {
    let error = courier().deliver(&to(channel(closed_port(), Encryption::None)), &message()).await.expect_err("nobody");
    assert!(matches!(error, DeliveryError::Unreachable { .. }) && error.is_transient(), "{error}");

    let server = MailServer::start(Rules { silent: true, ..Rules::default() }).await;
    let error = in_haste(&to(channel(server.port, Encryption::None))).await;
    assert!(matches!(error, DeliveryError::Unreachable { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_password_never_goes_over_a_connection_without_encryption() {
    let server = MailServer::start(Rules::default()).await;
    let spec = with_login(channel(server.port, Encryption::None));
    let error = resolve(&ChannelKind::Smtp(spec), PASSWORD).expect_err("in the clear");
    assert!(matches!(error, DeliveryError::Misconfigured { .. }), "{error}");

    let Destination::Smtp { host, port, from, to, credentials, .. } =
        to(with_login(channel(server.port, Encryption::Tls)))
    else {
        panic!("a mail")
    };
    let by_hand = Destination::Smtp { host, port, encryption: Encryption::None, from, to, credentials };
    let error = courier().deliver(&by_hand, &message()).await.expect_err("in the clear");
    assert!(matches!(error, DeliveryError::Misconfigured { .. }), "{error}");
    assert!(server.commands().is_empty());
}

#[test]
fn a_channel_that_cannot_work_is_a_misconfiguration() {
    let good = || channel(25, Encryption::StartTls);
    for (wrong, spec) in [
        ("host", Smtp { host: "not a host".to_owned(), ..good() }),
        ("port", Smtp { port: Some(70_000), ..good() }),
        ("from", Smtp { from: "quell".to_owned(), ..good() }),
        ("from", Smtp { from: "\"a\r\nRCPT TO:<x@y>\"@example.com".to_owned(), ..good() }),
        ("to", Smtp { to: vec!["müller@example.com".to_owned()], ..good() }),
        ("to", Smtp { to: vec![], ..good() }),
        ("username", Smtp { username: Some("quell".to_owned()), ..good() }),
        ("password", Smtp { password: Some(key("password")), ..good() }),
    ] {
        let error = resolve(&ChannelKind::Smtp(spec), PASSWORD).expect_err(wrong);
        let DeliveryError::Misconfigured { what } = &error else { panic!("{error}") };
        assert!(what.starts_with(wrong), "{what}");
    }
}

#[test]
fn the_port_follows_the_encryption() {
    for (encryption, expected) in [(Encryption::StartTls, 587), (Encryption::Tls, 465), (Encryption::None, 25)] {
        let Destination::Smtp { port, .. } = to(Smtp { port: None, ..channel(1, encryption) }) else {
            panic!("a mail")
        };
        assert_eq!(port, expected);
    }
}
