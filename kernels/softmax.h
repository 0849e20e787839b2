// The scale of softmax's weights as operands of matrix products.
//
// Weights are f16 there, and MI200's matrix instructions take subnormal f16 for zero (AMD's MIOpen, "MI200 MFMA
// behavior specifics"): relative to the largest score, whatever lies below e^-9.7 would be lost, beside a sink all
// the rest of a long context, and still count in the denominator. So weights are 2^(score - (max - WEIGHT_BITS)),
// at most 2^14, and what is lost lies below 2^-28 of the largest: of 2^17 positions together 2^-11, f16's
// own rounding. Sums of products and the denominator, which adds up the weights as they were before they were
// rounded, have the same factor, so that it is gone once one is divided by the other. One doubling is left to f16's
// range: a score's multiplication and the subtraction of the largest are rounded differently, and a weight may
// come out a little above the largest one.
#pragma once

static constexpr float WEIGHT_BITS = 14;
