select digest from factor_set where factor_set = $factor_set
