<?php
// A blocking PHP program for the truth harness (kit/truth.py): a process a request (Apache prefork, PHP-FPM), calls by curl.

[, , $hop, $plan, $ms] = explode('/', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
[$count, $rest] = explode('.', $plan, 2) + [1 => '0'];
$upstream = getenv('TRUTH_UPSTREAM') ?: $_SERVER['TRUTH_UPSTREAM'];
$curl = curl_init();
curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_FAILONERROR => true, CURLOPT_PROXY => '']);
for ($k = 1; $k <= (int) $count; $k++) {
    curl_setopt($curl, CURLOPT_URL, "$upstream/t/$hop.$k/$rest/$ms");
    if (curl_exec($curl) === false) {
        http_response_code(502);
    }
}
if ($count === '0') {
    usleep(1000 * (int) $ms);
}
echo "php\n";
