//! A mail server: mailin speaks SMTP, this moves its bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use mailin::response::{AUTH_OK, OK};
use mailin::{Action, AuthMechanism, Handler, Response, Session, SessionBuilder};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::pki::Authority;

/// How the server behaves. Default: takes everything, speaks no TLS.
#[derive(Clone, Default)]
pub struct Rules {
    pub tls: Option<TlsAcceptor>,
    /// From the first byte, instead of by STARTTLS.
    pub implicit: bool,
    /// User and password without which it takes nothing.
    pub login: Option<(&'static str, &'static str)>,
    /// What it says to a wrong login.
    pub wrong_login: String,
    /// Receivers that it doesn't take, and what it says to them.
    pub refuses: Vec<(&'static str, u16, &'static str)>,
    /// What it says at the end of the mail, in place of OK.
    pub verdict: Option<(u16, &'static str)>,
    /// Sent in the clear right behind the answer to STARTTLS: the attacker on the way.
    pub injected: &'static str,
    /// Accepts connections and says nothing.
    pub silent: bool,
}

impl Rules {
    pub fn with_tls(authority: &Authority) -> Self {
        Self { tls: Some(TlsAcceptor::from(authority.server.clone())), ..Self::default() }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Delivered {
    pub from: String,
    pub to: Vec<String>,
    pub mail: String,
    pub encrypted: bool,
}

impl Delivered {
    /// The lines of the header, unfolded.
    pub fn headers(&self) -> Vec<String> {
        let (head, _) = self.mail.split_once("\r\n\r\n").expect("a header");
        head.replace("\r\n ", " ").lines().map(str::to_owned).collect()
    }

    pub fn body(&self) -> &str {
        self.mail.split_once("\r\n\r\n").expect("a body").1
    }
}

pub struct MailServer {
    pub port: u16,
    inbox: Arc<Mutex<Vec<Delivered>>>,
    commands: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    pub async fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { port, inbox: Arc::default(), commands: Arc::default() };
        let (inbox, commands) = (server.inbox.clone(), server.commands.clone());
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let clerk = Clerk { rules: rules.clone(), inbox: inbox.clone(), current: Delivered::default() };
                tokio::spawn(serve(stream, peer, clerk, commands.clone()));
            }
        });
        server
    }

    pub fn inbox(&self) -> Vec<Delivered> {
        self.inbox.lock().expect("the inbox").clone()
    }

    /// Every line that came in the clear or decrypted, save the mails.
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("the commands").clone()
    }
}

type Commands = Arc<Mutex<Vec<String>>>;

async fn serve(mut stream: TcpStream, peer: SocketAddr, mut clerk: Clerk, commands: Commands) -> io::Result<()> {
    let rules = clerk.rules.clone();
    if rules.silent {
        return std::future::pending().await;
    }
    let mut builder = SessionBuilder::new("mail.example");
    if rules.tls.is_some() && !rules.implicit {
        builder.enable_start_tls();
    }
    if rules.login.is_some() {
        builder.enable_auth(AuthMechanism::Plain);
    }
    if let Some(tls) = rules.tls.as_ref().filter(|_| rules.implicit) {
        clerk.current.encrypted = true;
        let mut session = builder.build(peer.ip(), clerk);
        session.tls_active();
        let mut stream = tls.accept(stream).await?;
        write(&mut stream, &session.greeting(), "").await?;
        return converse(&mut stream, &mut session, &commands, "").await.map(drop);
    }
    let encrypted = Clerk { current: Delivered { encrypted: true, ..Delivered::default() }, ..clerk.clone() };
    let mut session = builder.build(peer.ip(), clerk);
    write(&mut stream, &session.greeting(), "").await?;
    let upgrade = converse(&mut stream, &mut session, &commands, rules.injected).await?;
    if let Some(tls) = rules.tls.filter(|_| upgrade) {
        // A new session: what was said in the clear is forgotten (RFC 3207 section 4.2).
        let mut session = builder.build(peer.ip(), encrypted);
        session.tls_active();
        converse(&mut tls.accept(stream).await?, &mut session, &commands, "").await?;
    }
    Ok(())
}

/// Until the end, or until TLS is to start: then true.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    session: &mut Session<Clerk>,
    commands: &Commands,
    injected: &str,
) -> io::Result<bool> {
    let mut stream = BufReader::new(stream);
    let mut data = false;
    loop {
        let mut line = vec![];
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        if !data {
            commands.lock().expect("the commands").push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        let response = session.process(&line);
        data = response.code == 354 || (data && response.action == Action::NoReply);
        match response.action {
            Action::NoReply => {}
            Action::Reply => write(&mut stream, &response, "").await?,
            Action::Close => return write(&mut stream, &response, "").await.map(|()| false),
            Action::UpgradeTls => return write(&mut stream, &response, injected).await.map(|()| true),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), response: &Response, behind: &str) -> io::Result<()> {
    let mut bytes = vec![];
    response.write_to(&mut bytes)?;
    bytes.extend_from_slice(behind.as_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[derive(Clone)]
struct Clerk {
    rules: Rules,
    inbox: Arc<Mutex<Vec<Delivered>>>,
    current: Delivered,
}

impl Handler for Clerk {
    fn auth_plain(&mut self, _: &str, user: &str, password: &str) -> Response {
        if self.rules.login == Some((user, password)) {
            AUTH_OK
        } else {
            Response::custom(535, self.rules.wrong_login.clone())
        }
    }

    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        from.clone_into(&mut self.current.from);
        OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if let Some((_, code, said)) = self.rules.refuses.iter().find(|(refused, ..)| *refused == to) {
            return Response::custom(*code, (*said).to_owned());
        }
        self.current.to.push(to.to_owned());
        OK
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        self.current.mail.push_str(&String::from_utf8_lossy(line));
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        if let Some((code, said)) = self.rules.verdict {
            return Response::custom(code, said.to_owned());
        }
        self.inbox.lock().expect("the inbox").push(self.current.clone());
        OK
    }
}
