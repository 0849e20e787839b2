use novastack as _;
