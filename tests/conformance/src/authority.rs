//! Certificates for tests of TLS.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::failure::CaseResult;

/// A certificate authority of a test's own. Itself and what it signs are files in one folder: `ca.pem`, and
/// `name.pem` with `name.key` for each [`sign`](Self::sign).
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    /// An authority that writes into a folder which is there.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn new(folder: impl AsRef<Path>) -> CaseResult<Self> {
        let folder = folder.as_ref().to_owned();
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            folder,
        })
    }

    /// Makes a certificate of this name for a host.
    ///
    /// # Errors
    /// The folder cannot be written to, or the host is no name.
    pub fn sign(&self, name: &str, host: &str) -> CaseResult {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        // Not that of the authority, or a server takes it for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.file(&format!("{name}.pem")), certificate.pem())?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// The path of one of its files, as a URL's option takes it.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
