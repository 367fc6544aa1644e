//! Lines to standard output.

use tokio::io::AsyncWriteExt as _;

use crate::audit::AuditError;

/// Writes the lines and waits until they are out.
pub(super) async fn put(lines: &str) -> Result<(), AuditError> {
    let mut out = tokio::io::stdout();
    let written = async {
        out.write_all(lines.as_bytes()).await?;
        out.flush().await
    };
    written.await.map_err(AuditError::Stdout)
}
