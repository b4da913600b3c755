"""Stands before MLflow, speaks TLS, and lets nobody in without proof. Says a line for every request, and for every connection without.

guard.py TARGET SECRET PORT:CERTIFICATE.pem..."""

import base64
import http.client
import http.server
import ssl
import sys
import threading
import urllib.parse

target, secret, places = sys.argv[1], sys.argv[2], sys.argv[3:]
basic = base64.b64encode(f"joe:{secret}".encode()).decode()
GOOD = {f"Bearer {secret}", f"Basic {basic}"}
EXPIRED = f"Bearer expired-{secret}"


class Guard(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        proof = self.headers.get("authorization")
        print("request", self.command, proof in GOOD, flush=True)
        if proof not in GOOD:
            why = "The access token expired" if proof == EXPIRED else "The access token is not known"
            # A server that repeats what it was told.
            said = f'{{"error_code": "UNAUTHENTICATED", "message": "nobody has {proof}"}}'.encode()
            self.send_response(401)
            self.send_header("www-authenticate", f'Bearer error="invalid_token", error_description="{why}"')
            return self.end(said)
        behind = http.client.HTTPConnection(urllib.parse.urlsplit(target).netloc, timeout=60)
        passed = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "accept")}
        behind.request(self.command, self.path, body, passed)
        reply = behind.getresponse()
        said = reply.read()
        self.send_response(reply.status)
        self.send_header("content-type", reply.getheader("content-type", "application/json"))
        self.end(said)

    def end(self, said):
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port, pem):
        super().__init__(("127.0.0.1", port), Guard)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(pem)

    def finish_request(self, request, client_address):
        # Here, in the connection's own thread: a handshake that hangs holds up nobody else.
        request.settimeout(30)
        try:
            request = self.tls.wrap_socket(request, server_side=True)
        except OSError as error:
            print("refused", error, flush=True)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        print("ended", sys.exc_info()[1], flush=True)


for place in places:
    port, pem = place.split(":", 1)
    threading.Thread(target=Server(int(port), pem).serve_forever, daemon=True).start()
print("listens", flush=True)
threading.Event().wait()
