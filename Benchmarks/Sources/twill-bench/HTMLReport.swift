import Foundation

/// `report.html`: one file with its style and its charts as inline SVG, for screens light and dark, and for print.
struct HTMLReport {
    let summary: Summary

    private var results: Results { summary.results }

    var text: String {
        """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>twill-bench, \(results.machine.date.formatted(.iso8601))</title>
        <style>\(Self.style)</style>
        </head>
        <body>
        <h1>twill-bench</h1>
        <p class="when">\(results.machine.date.formatted(.iso8601))</p>
        \(warnings)
        \(summary.inShort.map { "<p class=\"short\">\(escape($0))</p>" }.joined())
        \(summary.conditions.map { "<p class=\"conditions\">\(escape($0))</p>" }.joined())
        <p class="key">\(key)</p>
        \(results.settings.underlays.map(section).joined(separator: "\n"))
        <p class="foot">Every raw figure is in results.json beside this file.</p>
        </body>
        </html>

        """
    }

    /// How the figures and the charts are read.
    private var key: String {
        """
        13 <small>×0.76 · ×0.21</small>: a median, its ratio to \(escape(summary.reference)), its ratio to baseline; \
        a ratio is the median of those within a round. A bar goes from \(escape(summary.reference)) to the ratio, on \
        a logarithmic scale: <b class="better">better</b>, \
        <b class="worse">worse</b>, or <b class="level">within 5 %</b>. \
        \(escape(summary.meaningOfIntervals))\
        \(results.settings.rounds > 1 ? " Whiskers show the same." : "")
        """
    }

    private var warnings: String {
        guard !summary.warnings.isEmpty else { return "" }
        let items = summary.warnings.map { "<li>\(escape($0))</li>" }.joined()
        return "<ul class=\"warnings\">\(items)</ul>"
    }

    private func section(_ underlay: Underlay) -> String {
        let metrics = summary.metrics(underlay)
        let charts = metrics.filter(\.isHeadline).map { barChart($0, underlay) }.joined()
        let latency = metrics.map(\.name).filter { $0.hasSuffix(".p50") }
            .map { latencyChart(String($0.dropLast(".p50".count)), metrics, underlay) }.joined()
        return """
            <h2>\(underlay.rawValue.capitalized) underlay</h2>
            <p class="meaning">\(escape(underlay.meaning))</p>
            <div class="charts">\(charts)</div>
            \(latency)
            \(ways(metrics, underlay))
            <details open><summary>All figures</summary>\(table(metrics, underlay))</details>
            """
    }

    // MARK: Charts

    private static let labelWidth = 150.0
    private static let barWidth = 180.0
    private static let figureWidth = 170.0
    private static let rowHeight = 26.0

    /// One bar a candidate, from the reference to the candidate's ratio to it on a logarithmic scale, or from zero
    /// where the reference has nothing to be compared with; its figure and its ratios stand beside it.
    private func barChart(_ metric: Metric, _ underlay: Underlay) -> String {
        let rows = results.candidates.map { ($0, summary.figure(metric, $0, underlay)) }
        let isComparable = rows.contains { ($0.1?.ratio ?? 0) > 0 }
        let scale =
            isComparable
            ? RatioScale(rows.compactMap { $0.1?.ratio }, from: Self.labelWidth, width: Self.barWidth)
            : LengthScale(
                rows.compactMap { $0.1.map { $0.interval?.high ?? $0.median } }, from: Self.labelWidth,
                width: Self.barWidth) as any ChartScale
        let height = Double(rows.count) * Self.rowHeight
        var marks = """
            <path class="grid" d="M\(scale.origin.rounded2) 0V\(height)"/>\
            <text class="tick" x="\(scale.origin.rounded2)" y="\(height + 14)">\
            \(isComparable ? escape(summary.reference) : "0")</text>\
            \(direction(metric, y: height + 14))
            """
        for (index, (candidate, figure)) in rows.enumerated() {
            let y = Double(index) * Self.rowHeight
            marks += label(candidate, y: y)
            guard let figure else {
                let text = summary.absence(candidate, underlay)
                marks += "<text class=\"ratio\" x=\"\(scale.origin.rounded2)\" y=\"\(y + 17)\">\(text)</text>"
                continue
            }
            let value = isComparable ? figure.ratio ?? 1 : figure.median
            let end = scale.position(value)
            let style = isComparable ? standing(figure, metric) : "level"
            let x = Self.labelWidth + Self.barWidth + 12
            marks += """
                <rect class="\(style)" x="\(min(scale.origin, end).rounded2)" y="\(y + 4)" \
                width="\(max(abs(end - scale.origin), 1).rounded2)" height="18" rx="2"/>\
                \(whisker(figure, value, scale, y: y + 13))\
                <text class="figure" x="\(x)" y="\(y + 17)">\(metric.format(figure.median))\
                <tspan class="ratio"> \(ratios(figure))</tspan></text>
                """
        }
        let width = Self.labelWidth + Self.barWidth + Self.figureWidth
        let words = metric.moreIsBetter ? "more is better" : "less is better"
        return """
            <figure><figcaption>\(escape(metric.titleWithUnit)) <span>\(words)</span></figcaption>\
            <svg viewBox="0 0 \(width) \(height + 18)" role="img">\(marks)</svg></figure>
            """
    }

    /// `better`, `worse` or `level`, as the style has it.
    private func standing(_ figure: Summary.Figure, _ metric: Metric) -> String {
        guard let ratio = figure.ratio, let standing = Summary.Standing([ratio], metric) else {
            return "level"
        }
        switch standing {
        case .better: return "better"
        case .worse: return "worse"
        case .level: return "level"
        }
    }

    /// At the end of the axis where bars are good.
    private func direction(_ metric: Metric, y: Double) -> String {
        let x = metric.moreIsBetter ? Self.labelWidth + Self.barWidth : Self.labelWidth
        let anchor = metric.moreIsBetter ? "end" : "start"
        let text = metric.moreIsBetter ? "better →" : "← better"
        return
            "<text class=\"tick good\" style=\"text-anchor:\(anchor)\" x=\"\(x)\" y=\"\(y)\">\(text)</text>"
    }

    /// Where the median may lie; nothing with one round.
    private func whisker(
        _ figure: Summary.Figure, _ value: Double, _ scale: any ChartScale, y: Double
    ) -> String {
        guard let interval = figure.interval, figure.median > 0 else { return "" }
        let ends =
            figure.ratioInterval.map { ($0.low, $0.high) }
            ?? (value * interval.low / figure.median, value * interval.high / figure.median)
        let (from, to) = (scale.position(ends.0), scale.position(ends.1))
        return "<path class=\"whisker\" d=\"M\(from.rounded2) \(y)H\(to.rounded2)\"/>"
    }

    private func ratios(_ figure: Summary.Figure) -> String {
        guard figure.median != 0, figure.ratio != nil || figure.ratioToBaseline != nil else { return "" }
        return [figure.ratio, figure.ratioToBaseline].map { ratio in
            ratio.map { "×\($0.asRatio)" } ?? "–"
        }.joined(separator: " · ")
    }

    /// Percentiles on a logarithmic scale, one line a candidate.
    private func latencyChart(_ measurement: String, _ metrics: [Metric], _ underlay: Underlay) -> String {
        let percentiles = metrics.filter { $0.name.hasPrefix(measurement + ".") && $0.unit == "µs" }
        let values = percentiles.flatMap { metric in
            results.candidates.compactMap { summary.figure(metric, $0, underlay)?.median }
        }.filter { $0 > 0 }
        guard let least = values.min(), let greatest = values.max(), percentiles.count > 1 else { return "" }
        let low = pow(10, floor(log10(least)))
        let high = pow(10, ceil(log10(greatest)))
        let width = 640.0
        func x(_ value: Double) -> Double {
            Self.labelWidth + 20 + log10(value / low) / max(log10(high / low), 1) * width
        }
        let height = Double(results.candidates.count) * Self.rowHeight
        var marks = ""
        var tick = low
        while tick <= high {
            marks += """
                <path class="grid" d="M\(x(tick).rounded2) 0V\(height)"/>\
                <text class="tick" x="\(x(tick).rounded2)" y="\(height + 16)">\(tick < 1000
                    ? String(format: "%g µs", tick) : String(format: "%g ms", tick / 1000))</text>
                """
            tick *= 10
        }
        for (index, candidate) in results.candidates.enumerated() {
            let y = Double(index) * Self.rowHeight + 13
            marks += label(candidate, y: y - 13)
            let points = percentiles.compactMap { metric in
                summary.figure(metric, candidate, underlay).map { (metric, x($0.median), $0.median) }
            }
            guard let first = points.first, let last = points.last else { continue }
            let style = candidate.name.hasPrefix("twill") ? "own" : "other"
            marks += "<path class=\"span \(style)\" d=\"M\(first.1.rounded2) \(y)H\(last.1.rounded2)\"/>"
            for (metric, position, value) in points {
                marks += """
                    <circle class="\(style)" cx="\(position.rounded2)" cy="\(y)" r="5">\
                    <title>\(escape(metric.title)): \(metric.format(value)) µs</title></circle>
                    """
            }
        }
        let names = percentiles.compactMap { $0.name.split(separator: ".", maxSplits: 1).last }
        let streams = measurement.split(separator: "-").last.flatMap { Int($0) } ?? 1
        let title =
            measurement == "rtt"
            ? "Round trip, idle" : "Round trip beside \(streams) bulk TCP flow\(streams == 1 ? "" : "s")"
        return """
            <figure class="wide"><figcaption>\(title) <span>from left to right: \
            \(names.joined(separator: ", "))</span></figcaption>\
            <svg viewBox="0 0 \(Self.labelWidth + width + 60) \(height + 22)" role="img">\(marks)</svg></figure>
            """
    }

    private func label(_ candidate: Candidate, y: Double) -> String {
        let style = candidate.name.hasPrefix("twill") ? "name own-name" : "name"
        return """
            <text class="\(style)" x="\(Self.labelWidth - 10)" y="\(y + 17)">\(escape(candidate.label))</text>
            """
    }

    // MARK: The way of a packet

    /// A picture for each candidate: where its packets go between user space and kernel, and what was counted there.
    private func ways(_ metrics: [Metric], _ underlay: Underlay) -> String {
        let pictures = results.candidates.compactMap { candidate -> String? in
            guard let way = PacketWay(summary: summary, metrics: metrics, candidate, underlay) else {
                return nil
            }
            return """
                <figure><figcaption>\(escape(candidate.label))</figcaption>\(way.picture)\
                <p>\(escape(way.text))</p></figure>
                """
        }
        guard !pictures.isEmpty else { return "" }
        return """
            <h3>The way of a packet, and where its bytes are copied</h3>\
            <div class="charts">\(pictures.joined())</div>
            """
    }

    private func table(_ metrics: [Metric], _ underlay: Underlay) -> String {
        let head = results.candidates.map { "<th>\(escape($0.label))</th>" }.joined()
        let rows = metrics.map { metric in
            let cells = results.candidates.map { candidate -> String in
                guard let figure = summary.figure(metric, candidate, underlay) else {
                    return "<td>\(summary.absence(candidate, underlay))</td>"
                }
                return """
                    <td>\(metric.format(figure.median)) <small>\(summary.interval(figure, metric))</small>\
                    <small>\(ratios(figure))</small> <small>\(figure.ratio == nil ? "" : summary.ratioInterval(figure))</small></td>
                    """
            }.joined()
            let sign = metric.moreIsBetter ? "▲" : "▼"
            return "<tr><th>\(escape(metric.titleWithUnit)) \(sign)</th>\(cells)</tr>"
        }.joined()
        return
            "<div class=\"scroll\"><table><tr><th>▲ more is better, ▼ less</th>\(head)</tr>\(rows)</table></div>"
    }

    private static let style = """
        :root { color-scheme: light dark; --text: #1d2430; --quiet: #667085; --line: #d5dae2; --page: #fff;
          --own: #0f766e; --other: #a3adbd; --warn: #b45309; --good: #2563eb; --bad: #d97706; }
        @media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --quiet: #98a2b3; --line: #39414f;
          --page: #12161d; --own: #2dd4bf; --other: #5c6778; --warn: #fbbf24; --good: #60a5fa; --bad: #f59e0b; } }
        body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
          max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
        h1 { margin: 0; } h2 { margin: 2.5rem 0 0; } h3 { margin: 1.5rem 0 .5rem; }
        .when, .meaning, .foot, figcaption span { color: var(--quiet); }
        .when, .meaning { margin-top: 0; }
        .warnings { border-left: 4px solid var(--warn); padding: .5rem 1rem .5rem 2rem; }
        .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1.5rem; }
        figure { margin: 0; break-inside: avoid; } figure.wide { margin-top: 1.5rem; max-width: 46rem; }
        figure p { margin: .25rem 0; color: var(--quiet); font-size: 13px; }
        figcaption { font-weight: 600; } figcaption span { font-weight: 400; font-size: 13px; }
        svg { width: 100%; height: auto; font: 13px system-ui, sans-serif; }
        svg text { fill: var(--text); } svg .name { text-anchor: end; }
        svg .ratio, svg .tick, svg .zone { fill: var(--quiet); } svg .tick { text-anchor: middle; } svg .bad { fill: var(--warn); }
        svg .tick, svg .zone { font-size: 11px; }
        .own { fill: var(--own); } .other { fill: var(--other); }
        .better { fill: var(--good); color: var(--good); } .worse { fill: var(--bad); color: var(--bad); }
        .level { fill: var(--other); color: var(--quiet); } .short { font-size: 17px; }
        .conditions, .key { color: var(--quiet); font-size: 13px; margin: .5rem 0; overflow-wrap: anywhere; }
        svg .own-name { font-weight: 700; }
        .whisker { stroke: var(--text); stroke-width: 1.5; opacity: .55; }
        .grid { stroke: var(--line); } .border { stroke: var(--line); stroke-dasharray: 4 4; }
        .span { stroke-width: 2; fill: none; } .span.own { stroke: var(--own); } .span.other { stroke: var(--other); }
        .way { fill: none; stroke: var(--own); stroke-width: 2.5; stroke-linejoin: round; }
        .copy { fill: var(--page); stroke: var(--warn); stroke-width: 2.5; }
        svg .bad { fill: var(--warn); font-weight: 600; }
        .scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
        th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
        td small { display: block; white-space: nowrap; } td, th:first-child { min-width: 4.5rem; }
        tr > th:first-child { text-align: left; font-weight: 400; } small { color: var(--quiet); }
        details { margin-top: 1.5rem; } summary { cursor: pointer; }
        @media print { :root { color-scheme: light; --text: #1d2430; --quiet: #667085; --line: #d5dae2; --page: #fff;
            --own: #0f766e; --other: #a3adbd; --warn: #b45309; }
          * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
          body { margin: 0; max-width: none; font-size: 12px; } h2:not(:first-of-type) { break-before: page; }
          .charts { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; } table { font-size: 8px; }
          th, td { white-space: normal; padding: .1rem .3rem; } tr { break-inside: avoid; } }
        """
}

/// Where a figure lies on a chart.
private protocol ChartScale {
    /// Where bars begin.
    var origin: Double { get }
    func position(_ value: Double) -> Double
}

/// Ratios on a logarithmic scale; 1 is where bars begin.
private struct RatioScale: ChartScale {
    private let low: Double
    private let high: Double
    private let start: Double
    private let width: Double

    init(_ ratios: [Double], from start: Double, width: Double) {
        let positive = ratios.filter { $0 > 0 }
        low = log(min(positive.min() ?? 1, 0.5))
        high = log(max(positive.max() ?? 1, 2))
        self.start = start
        self.width = width
    }

    var origin: Double { position(1) }

    func position(_ value: Double) -> Double {
        guard value > 0 else { return start }
        return start + (min(max(log(value), low), high) - low) / (high - low) * width
    }
}

/// Figures from zero on.
private struct LengthScale: ChartScale {
    let origin: Double
    private let factor: Double

    init(_ values: [Double], from start: Double, width: Double) {
        origin = start
        factor = width / max(values.max() ?? 1, .leastNonzeroMagnitude)
    }

    func position(_ value: Double) -> Double { origin + value * factor }
}

func escape(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;")
        .replacing("\"", with: "&quot;")
}

extension Double {
    /// Two decimals: enough for a coordinate.
    var rounded2: String { String(format: "%.2f", self) }
}
