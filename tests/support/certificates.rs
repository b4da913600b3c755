//! Certificates made on the spot: an authority, and what it signed for a server, for another host, too long ago, and for a client.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `openssl` needs to know to act as an authority.
const AUTHORITY: &str = "[ca]
default_ca = ours
[ours]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
organizationName = optional
[req]
distinguished_name = name
prompt = no
[name]
commonName = never asked for
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";
const PRESENT: [&str; 2] = ["20200101000000Z", "20991231000000Z"];
const PAST: [&str; 2] = ["20200101000000Z", "20210101000000Z"];

/// A folder of certificates in PEM: `NAME.pem` is key and certificate.
#[derive(Clone)]
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    /// Makes them in a new folder: `server`, `elsewhere` and `expired` for servers, `client` for one, all of the authority `ca`; and
    /// `stranger`, another authority.
    pub(crate) fn make(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a new folder");
        let certificates = Self(folder.to_owned());
        certificates.write("authority.cnf", AUTHORITY);
        certificates.write("index.txt", "");
        for name in ["ca", "stranger"] {
            let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
            let subject = format!("/CN={name}");
            certificates.openssl(&[
                &["req", "-x509", "-config", "authority.cnf", "-extensions", "authority", "-days", "30", "-nodes"][..],
                &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", &key, "-out", &certificate, "-subj", &subject],
            ]);
        }
        certificates.sign("server", "/CN=server/O=servers", "IP:127.0.0.1,DNS:localhost", PRESENT);
        certificates.sign("elsewhere", "/CN=server/O=servers", "DNS:elsewhere.example", PRESENT);
        certificates.sign("expired", "/CN=server/O=servers", "IP:127.0.0.1,DNS:localhost", PAST);
        certificates.sign("client", "/CN=tidemark", "DNS:client.example", PRESENT);
        certificates
    }

    /// Returns a file's place.
    pub(crate) fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).expect("the folder takes a file");
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let output = Command::new("openssl").args(arguments.concat()).current_dir(&self.0).output();
        let output = output.expect("openssl is there: run script/bootstrap test");
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sign(&self, name: &str, subject: &str, names: &str, [from, to]: [&str; 2]) {
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, certificate, extensions) = (file("key"), file("csr"), file("crt"), file("ext"));
        self.write(&extensions, &format!("subjectAltName = {names}\nextendedKeyUsage = serverAuth, clientAuth\n"));
        self.openssl(&[
            &["req", "-new", "-config", "authority.cnf", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"][..],
            &["-keyout", &key, "-out", &request, "-subj", subject],
        ]);
        self.openssl(&[
            &["ca", "-batch", "-notext", "-config", "authority.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"][..],
            &["-in", &request, "-out", &certificate, "-extfile", &extensions, "-startdate", from, "-enddate", to],
        ]);
        let read = |file: &str| std::fs::read_to_string(self.0.join(file)).expect("it was made just now");
        self.write(&file("pem"), &(read(&key) + &read(&certificate)));
    }
}
