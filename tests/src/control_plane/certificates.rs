//! A certificate authority of its own for each control plane, and what it signs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Where the files lie that components name in their flags.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) authority: PathBuf,
    pub(super) authority_key: PathBuf,
    pub(super) serving: PathBuf,
    pub(super) serving_key: PathBuf,
    /// By which kubelets know the API server.
    pub(super) kubelet_client: PathBuf,
    pub(super) kubelet_client_key: PathBuf,
    pub(super) service_account_key: PathBuf,
    pub(super) service_account_public_key: PathBuf,
}

/// Signs certificates, and knows where the API server is.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new authority; writes its files and those of the API server, which is at `address`, into `folder`.
    pub(super) fn create(folder: &Path, address: Ipv4Addr) -> Result<(Self, Files)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "quell-tests");
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        let authority = Self { issuer: Issuer::new(params, key), pem };

        // 10.96.0.1 is where pods find the API server.
        let address = address.to_string();
        let names =
            ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names: BTreeSet<&str> = names.into_iter().chain([address.as_str()]).collect();
        let (serving, serving_key) = authority.server("kube-apiserver", names)?;
        let (kubelet_client, kubelet_client_key) = authority.client("kube-apiserver-kubelet-client", &[])?;

        let write = |name: &str, content: &str| write(folder, name, content);
        let service_accounts = KeyPair::generate()?;
        let files = Files {
            authority: write("ca.crt", &authority.pem)?,
            authority_key: write("ca.key", &key_pem)?,
            serving: write("serving.crt", &serving)?,
            serving_key: write("serving.key", &serving_key)?,
            kubelet_client: write("kubelet-client.crt", &kubelet_client)?,
            kubelet_client_key: write("kubelet-client.key", &kubelet_client_key)?,
            service_account_key: write("service-accounts.key", &service_accounts.serialize_pem())?,
            service_account_public_key: write("service-accounts.pub", &service_accounts.public_key_pem())?,
        };
        Ok((authority, files))
    }

    /// A kubeconfig whose certificate says that its bearer is `user`, in `groups`.
    pub(super) fn kubeconfig(&self, server: &str, user: &str, groups: &[&str]) -> Result<String> {
        let (certificate, key) = self.client(user, groups)?;
        let [authority, certificate, key] = [&self.pem, &certificate, &key].map(|pem| BASE64.encode(pem));
        Ok(format!(
            r#"apiVersion: v1
kind: Config
current-context: quell-tests
contexts:
  - name: quell-tests
    context: {{cluster: quell-tests, user: "{user}"}}
clusters:
  - name: quell-tests
    cluster:
      server: {server}
      certificate-authority-data: {authority}
users:
  - name: "{user}"
    user:
      client-certificate-data: {certificate}
      client-key-data: {key}
"#
        ))
    }

    /// Writes `NAME.crt` and `NAME.key` of a server at `address` into `folder`.
    pub(super) fn write_server(&self, folder: &Path, name: &str, address: Ipv4Addr) -> Result<()> {
        let (certificate, key) = self.server(name, [address.to_string().as_str()])?;
        write(folder, &format!("{name}.crt"), &certificate)?;
        write(folder, &format!("{name}.key"), &key)?;
        Ok(())
    }

    fn server<'a>(&self, name: &str, names: impl IntoIterator<Item = &'a str>) -> Result<(String, String)> {
        let mut params = CertificateParams::new(names.into_iter().map(String::from).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, user: &str, groups: &[&str]) -> Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<(String, String)> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn write(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}
