"""The second shell: real cores, trainers and frames under a virtual clock and a modelled network."""
