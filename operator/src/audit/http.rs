//! Lines to a receiver, in POSTs of JSON lines. One that was not answered is sent again: lines have numbers by which a receiver knows them.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

use crate::audit::AuditError;

/// No POST takes longer.
const LONGEST: Duration = Duration::from_secs(10);

pub(super) struct Http {
    client: reqwest::Client,
    url: Url,
    token: Option<PathBuf>,
}

impl Http {
    pub fn new(client: reqwest::Client, url: Url, token: Option<PathBuf>) -> Self {
        Self { client, url, token }
    }

    pub async fn put(&self, lines: &str) -> Result<(), AuditError> {
        let mut request = self.client.post(self.url.clone()).timeout(LONGEST);
        if let Some(path) = &self.token {
            // Read each time: tokens are renewed.
            let token = tokio::fs::read_to_string(path).await;
            let token = token.map_err(|source| AuditError::File { path: path.clone(), source })?;
            request = request.bearer_auth(token.trim());
        }
        let request = request.header(CONTENT_TYPE, "application/x-ndjson").body(lines.to_owned());
        // An address may hold a password: errors tell of it without.
        let answer = request.send().await.map_err(|error| AuditError::Http(error.without_url().to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let host = self.url.host_str().unwrap_or_default();
        Err(AuditError::Http(format!("{host} answered {}", answer.status())))
    }
}
