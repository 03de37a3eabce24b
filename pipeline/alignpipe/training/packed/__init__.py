"""A leaner way through Llama-type models: no padding outside attention, the last layer only where it is asked for."""
