"""Learning a basis: N LoRAs per layer, their keys and the query projections, jointly, by flow matching on analogies."""
