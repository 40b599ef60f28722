"""A certificate authority for one test run, made by openssl."""
import ssl
import subprocess


class Authority:
    def __init__(self, directory):
        self.dir = directory
        self.ca = directory / "ca.pem"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                      "-keyout", directory / "ca.key", "-out", self.ca, "-days", "2", "-subj", "/CN=omid test CA",
                      "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")

    @staticmethod
    def _openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    def issue(self, name="localhost", addresses=("127.0.0.1",), usage="serverAuth"):
        """(certificate, key) for the name and the addresses; usage clientAuth: a client's."""
        d, stem = self.dir, name.replace("*", "_")
        cert, key, request, ext = (d / (stem + s) for s in (".pem", ".key", ".csr", ".ext"))
        names = ",".join(["DNS:" + name] + ["IP:" + a for a in addresses])
        ext.write_text("subjectAltName=%s\nextendedKeyUsage=%s\n" % (names, usage))
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
                      "-out", request, "-subj", "/CN=" + name)
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", d / "ca.key", "-CAcreateserial",
                      "-out", cert, "-days", "2", "-extfile", ext)
        return cert, key

    def server_context(self, name="localhost"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name))
        return context

    def asking_context(self, name="localhost", required=True):
        """A server's that asks for a client certificate of this authority."""
        context = self.server_context(name)
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        return context
