import Foundation
internal import KubernetesNodes
package import NIOCore
package import NIOHTTP1

extension FakeAPIServer {
    /// Reads requests of one connection and answers them.
    package final class Handler: ChannelInboundHandler {
        package typealias InboundIn = HTTPServerRequestPart
        package typealias OutboundOut = HTTPServerResponsePart

        private let owner: Owner
        private var head: HTTPRequestHead?
        private var body = ""

        package init(owner: Owner) { self.owner = owner }

        package func channelActive(context: ChannelHandlerContext) {
            let channel = context.channel
            owner.server.withLock { $0 }?.state.withLock { $0.channels[ObjectIdentifier(channel)] = channel }
            context.fireChannelActive()
        }

        package func channelInactive(context: ChannelHandlerContext) {
            let identifier = ObjectIdentifier(context.channel)
            owner.server.withLock { $0 }?.state.withLock {
                $0.channels[identifier] = nil
                $0.watchers[identifier] = nil
            }
            context.fireChannelInactive()
        }

        package func errorCaught(context: ChannelHandlerContext, error: any Error) {
            context.close(promise: nil)
        }

        package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head):
                self.head = head
                body = ""
            case .body(let buffer): body += String(buffer: buffer)
            case .end:
                if let head { owner.server.withLock { $0 }?.answer(head, body, on: context.channel) }
            }
        }
    }

    private func kind(of head: HTTPRequestHead) -> Kind {
        if head.method == .PATCH { return .patch }
        if head.uri.contains("/pods/") { return .pod }
        if head.uri.contains("watch=true") { return .watch }
        if head.uri.contains("continue=") { return .page }
        return head.uri.hasPrefix("/api/v1/nodes?") ? .list : .node
    }

    package func answer(_ head: HTTPRequestHead, _ body: String, on channel: any Channel) {
        let kind = kind(of: head)
        let (fault, token) = state.withLock { state -> (Fault?, String?) in
            state.requests.append(
                Request(
                    kind: kind, method: "\(head.method)", uri: head.uri, headers: head.headers, body: body))
            let index = state.faults.firstIndex { $0.kind == kind }
            return (index.map { state.faults.remove(at: $0).fault }, state.token)
        }
        if let token, head.headers.first(name: "Authorization") != "Bearer \(token)" {
            return status(401, "Unauthorized", on: channel)
        }
        switch fault {
        case .status(let code, let message, let headers, let details)?:
            status(code, message, headers: headers, details: details, on: channel)
        case .body(let text)?: whole(200, text, on: channel)
        case .silence?: break
        case .cut(let text)?:
            begin(on: channel)
            channel.eventLoop.execute {
                channel.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(string: text))))
                    .whenComplete {
                        _ in channel.close(promise: nil)
                    }
            }
        case nil: answer(kind, head.uri, body, on: channel)
        }
    }

    private func answer(_ kind: Kind, _ uri: String, _ body: String, on channel: any Channel) {
        let query = URLComponents(string: uri)?.queryItems ?? []
        func value(_ name: String) -> String? { query.first { $0.name == name }?.value }
        let name = uri.split(separator: "/").dropFirst(3).first.map(String.init) ?? ""
        switch kind {
        case .pod: whole(200, #"{"kind":"Pod","spec":{"nodeName":"own"}}"#, on: channel)
        case .node:
            guard let record = state.withLock({ $0.nodes[name] }) else {
                return status(404, "nodes \\\"\(name)\\\" not found", on: channel)
            }
            whole(200, json(record), on: channel)
        case .list, .page:
            list(value("continue"), limit: value("resourceVersion") == "0" ? nil : 500, on: channel)
        case .watch: watch(after: Int(value("resourceVersion") ?? "") ?? 0, on: channel)
        case .patch: patch(name, body, on: channel)
        }
    }

    private func list(_ token: String?, limit: Int?, on channel: any Channel) {
        let (nodes, version) = state.withLock { ($0.nodes.values.sorted { $0.name < $1.name }, $0.version) }
        let rest = nodes.drop { $0.name <= token ?? "" }
        let page = rest.prefix(limit ?? .max)
        let next = page.count < rest.count ? page.last?.name : nil
        // White space as other servers write it.
        let items = page.map { json($0) }.joined(separator: " ,\n ")
        let metadata =
            #"{"resourceVersion": "\#(version)""# + (next.map { #","continue":"\#($0)""# } ?? "") + "}"
        whole(
            200,
            "{\"kind\": \"NodeList\",\n \"apiVersion\": \"v1\", \"metadata\": \(metadata), \"items\" : [ \(items) ]}",
            on: channel)
    }

    private func watch(after version: Int, on channel: any Channel) {
        begin(on: channel)
        let missed = state.withLock { state in
            state.watchers[ObjectIdentifier(channel)] = Watcher(channel: channel, version: version)
            return state.nodes.values.filter { Int($0.resourceVersion) ?? 0 > version }
        }
        for record in missed.sorted(by: { Int($0.resourceVersion) ?? 0 < Int($1.resourceVersion) ?? 0 }) {
            tell([Watcher(channel: channel, version: 0)], "MODIFIED", json(record))
        }
    }

    private func patch(_ name: String, _ body: String, on channel: any Channel) {
        guard let keys = try? AnnotationKeys(prefix: "flannel.alpha.coreos.com"),
            let patch = try? APIObject(reading: Array(body.utf8), keys: keys)
        else { return status(400, "no patch", on: channel) }
        guard let known = state.withLock({ $0.nodes[name] }) else {
            return status(404, "not found", on: channel)
        }
        guard patch.uid == known.uid else {
            return status(422, "metadata.uid: Invalid value: field is immutable", on: channel)
        }
        change(name) { record in
            let annotations = patch.annotations
            record.annotations.isManaged = annotations.isManaged ?? record.annotations.isManaged
            record.annotations.backendType = annotations.backendType ?? record.annotations.backendType
            record.annotations.backendData = annotations.backendData ?? record.annotations.backendData
            record.annotations.backendV6Data = annotations.backendV6Data ?? record.annotations.backendV6Data
            record.annotations.publicIP = annotations.publicIP ?? record.annotations.publicIP
            record.annotations.publicIPv6 = annotations.publicIPv6 ?? record.annotations.publicIPv6
            record.networkUnavailable = patch.networkUnavailable ?? record.networkUnavailable
        }
        guard let record = state.withLock({ $0.nodes[name] }) else { return }
        whole(200, json(record), on: channel)
    }

    // MARK: Bytes

    private func status(
        _ code: Int, _ message: String, headers: [String: String] = [:], details: String? = nil,
        on channel: any Channel
    ) {
        let details = details.map { #","details":\#($0)"# } ?? ""
        whole(
            code, #"{"kind":"Status","status":"Failure","message":"\#(message)","code":\#(code)\#(details)}"#,
            headers: headers, on: channel)
    }

    private func whole(_ code: Int, _ text: String, headers: [String: String] = [:], on channel: any Channel)
    {
        begin(code, headers: headers, length: text.utf8.count, on: channel)
        state.withLock { $0.bytesSent += text.utf8.count }
        channel.eventLoop.execute {
            channel.write(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(string: text))), promise: nil)
            channel.writeAndFlush(HTTPServerResponsePart.end(nil), promise: nil)
        }
    }

    private func begin(
        _ code: Int = 200, headers extra: [String: String] = [:], length: Int? = nil, on channel: any Channel
    ) {
        var headers = HTTPHeaders()
        headers.add(name: "Content-Type", value: "application/json")
        if let length { headers.add(name: "Content-Length", value: "\(length)") }
        for (name, value) in extra { headers.add(name: name, value: value) }
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        let offset = state.withLock { $0.clockOffset }
        headers.add(name: "Date", value: formatter.string(from: Date().addingTimeInterval(Double(offset))))
        let head = HTTPResponseHead(version: .http1_1, status: .init(statusCode: code), headers: headers)
        channel.eventLoop.execute { channel.writeAndFlush(HTTPServerResponsePart.head(head), promise: nil) }
    }
}
