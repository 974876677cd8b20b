import Foundation

/// Student's t distribution with a whole number of degrees of freedom: how far the mean of few figures may lie from
/// zero by chance alone, where their spread is known from these figures only.
struct StudentDistribution {
    let degreesOfFreedom: Int

    /// The probability that chance leads at least as far from zero as `value`, to either side.
    func tailProbability(_ value: Double) -> Double {
        guard value.isFinite else { return 0 }
        // The finite sums for whole degrees of freedom, in the angle whose tangent is t / √ν.
        let angle = atan(abs(value) / Double(degreesOfFreedom).squareRoot())
        let cosine = cos(angle)
        var term = degreesOfFreedom % 2 == 0 ? 1 : cosine
        var sum = degreesOfFreedom == 1 ? 0 : term
        var step = degreesOfFreedom % 2 == 0 ? 1.0 : 2.0
        while step + 2 < Double(degreesOfFreedom) {
            term *= step / (step + 1) * cosine * cosine
            sum += term
            step += 2
        }
        let within =
            degreesOfFreedom % 2 == 0 ? sin(angle) * sum : 2 / .pi * (angle + sin(angle) * sum)
        return min(max(1 - within, 0), 1)
    }

    /// The value that chance stays within, to both sides, with probability `share`.
    func bound(containing share: Double) -> Double {
        var low = 0.0
        var high = 1.0
        while tailProbability(high) > 1 - share { high *= 2 }
        for _ in 0..<60 {
            let middle = (low + high) / 2
            if tailProbability(middle) > 1 - share { low = middle } else { high = middle }
        }
        return high
    }
}
