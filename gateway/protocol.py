"""HTTP/1.1 as the gateway speaks it: one request at a time on a connection."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneAtATime(HttpToolsProtocol):
    """Closes a connection on which a request comes before the last one is answered.

    uvicorn would keep it for later, and then not tell the answer that is being sent that its reader has left: a stream
    would continue for nobody, for as long as the run does. No browser, and no client that we know, pipelines requests.
    """

    def on_headers_complete(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        super().on_headers_complete()
